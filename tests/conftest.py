pytest_plugins = ["tests.plugins.standin"]
