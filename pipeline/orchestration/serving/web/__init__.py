"""The UI's webserver: Dagster's own application behind a guard, a login and strict headers.

Dagster's webserver executes whatever any web page sends to it. Here a request has to be addressed
to a name of the UI's own, and everything that may change something has to come from a page of the
UI or to bring the token.
"""
