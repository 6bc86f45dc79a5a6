"""Starts and watches the processes of a Dagster instance: daemon, webserver, and what they still have to
do.
"""
