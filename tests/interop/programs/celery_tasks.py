"""The tasks of the Celery test; imported by the worker and by the test."""

import os

from celery import Celery

app = Celery("interop", broker=os.environ["CELERY_URL"], backend="rpc://")
app.conf.task_default_queue = os.environ["CELERY_QUEUE"]
app.conf.broker_connection_retry_on_startup = True
app.conf.result_expires = 60
app.conf.worker_prefetch_multiplier = 1
app.conf.task_acks_late = True


@app.task
def add(a, b):
    return a + b


@app.task
def divide(a, b):
    return a / b


@app.task(bind=True, max_retries=3)
def flaky(self, _started):
    if self.request.retries < 2:
        raise self.retry(countdown=0.2)
    return self.request.retries
