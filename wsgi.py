"""What gunicorn serves."""

from app import bootstrap

app = bootstrap.web(bootstrap.served_config())
