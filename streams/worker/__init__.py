"""A worker process: the Faust app, start-up, supervision, HTTP."""
