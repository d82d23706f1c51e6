"""The UI's webserver: Dagster's application behind a guard, a login and strict headers.

Dagster's webserver executes whatever any web page sends to it. Here a request has to name the UI as
its host, and a request that can change something has to come from a page of the UI or carry the
token.
"""
