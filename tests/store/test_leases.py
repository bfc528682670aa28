from app.store import leases
from app.store.dialect import Database


def test_one_owner_at_a_time(database: Database) -> None:
    with database.write() as connection:
        assert leases.take(connection, "relay/a", "one", now=100, until=200)
        assert not leases.take(connection, "relay/a", "two", now=200, until=300)
        assert leases.take(connection, "relay/b", "two", now=200, until=300)
        assert leases.take(connection, "relay/a", "one", now=150, until=250)
        assert not leases.take(connection, "relay/a", "two", now=250, until=350)
        assert leases.take(connection, "relay/a", "two", now=251, until=350)
        assert not leases.take(connection, "relay/a", "one", now=252, until=350)


def test_what_is_given_back_is_free_at_once(database: Database) -> None:
    with database.write() as connection:
        assert leases.take(connection, "relay/a", "one", now=100, until=200)
        assert leases.take(connection, "relay/b", "two", now=100, until=200)
        leases.give_back(connection, "one")
        assert leases.take(connection, "relay/a", "three", now=100, until=200)
        assert not leases.take(connection, "relay/b", "three", now=100, until=200)
