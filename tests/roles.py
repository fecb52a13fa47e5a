"""Roles of a database, for the tests of privileges and passwords."""

import uuid

from servers import OWNER, PASSWORD, Database


class Role:
    """A role of a database, with no privileges at first."""

    def __init__(self, database: Database, password: str = PASSWORD) -> None:
        self.database = database
        self.is_mysql = database.server.dialect == "mysql"
        self.name = f"clerk_{uuid.uuid4().hex[:12]}"
        self.url = database.url.replace(f"{OWNER}:{PASSWORD}@", f"{self.name}:{password}@")
        # A MariaDB account without a host is hidden by the anonymous users on localhost.
        self.accounts = [f"'{self.name}'@'{host}'" for host in ("%", "localhost")] if self.is_mysql else [self.name]
        if self.is_mysql:
            database.sql("CREATE USER " + ", ".join(f"{each} IDENTIFIED BY '{password}'" for each in self.accounts))
        else:
            database.sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC")  # the default since PostgreSQL 15
            database.sql(f"CREATE ROLE {self.name} LOGIN PASSWORD '{password}'")

    def grant(self, privileges: str) -> None:
        self.database.sql(f"GRANT {privileges} TO {', '.join(self.accounts)}")

    def change_password(self, password: str) -> None:
        command = "ALTER USER {} IDENTIFIED BY '{}'" if self.is_mysql else "ALTER ROLE {} PASSWORD '{}'"
        for account in self.accounts:
            self.database.sql(command.format(account, password))

    def drop(self) -> None:
        if self.is_mysql:
            self.database.sql(f"DROP USER {', '.join(self.accounts)}")
        else:
            self.database.sql(f"DROP OWNED BY {self.name}")
            self.database.sql(f"DROP ROLE {self.name}")
