"""What gunicorn serves."""

from app import bootstrap

app = bootstrap.web(bootstrap.load_config())
