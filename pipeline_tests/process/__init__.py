"""Tests of commands as processes, of servers, kills, browsers and other programs."""
