import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
REPOSITORY = ""  # The address of this repository, such as https://github.com/OWNER/NAME, once it has one.
POSTGRES = ["psycopg[binary]>=3.2"]
MYSQL = ["pymysql[rsa]>=1.0"]  # MySQL's caching_sha2_password needs rsa on connections without TLS.
PANDAS = ["pandas>=1.3"]
REPORT = ["itables>=2.3", "plotly>=6"]


def absolute_link(link):
    """Return a relative link of README.md as it works on a package index: absolute, or its text only."""
    mark, text, target = link.groups()
    if not REPOSITORY:
        return "" if mark else text
    return f"{mark}[{text}]({REPOSITORY}/{'raw' if mark else 'blob'}/HEAD/{target})"


LINK = r"(!?)\[([^\]]+)\]\((?!https?:)([^)]+)\)"

setup(
    name="magnus-peewee-store",
    version="0.1.0",
    description="A run log store for magnus that keeps run logs in a database, on peewee",
    long_description=re.sub(LINK, absolute_link, (HERE / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    author="magnus-peewee-store contributors",
    license_expression="Apache-2.0",
    keywords=["magnus", "pipeline", "run log", "experiment tracking", "peewee", "postgresql", "mysql", "sqlite"],
    project_urls={
        **({"Source": REPOSITORY, "Changelog": f"{REPOSITORY}/blob/HEAD/CHANGELOG.md"} if REPOSITORY else {}),
        "magnus": "https://github.com/AstraZeneca/magnus-core",
        "peewee": "https://docs.peewee-orm.com",
    },
    packages=find_packages(include=["magnus_peewee_store", "magnus_peewee_store.*"]),
    package_data={
        "magnus_peewee_store": ["py.typed"],
        "magnus_peewee_store.report": ["*.css", "*.html", "*.js"],
        "magnus_peewee_store.timeline": ["*.css"],
    },
    python_requires=">=3.8",
    install_requires=[
        "peewee>=4.5,<5",
        # magnus brings the following ones, too.
        "click>=8.0",
        "magnus>=0.5,<0.6",
        "pydantic>=2.6",
        "pydantic-core",
        "rich>=13.5.2,<14",
        "ruamel.yaml>=0.17",
        # magnus 0.5's command imports pkg_resources, which setuptools 82 removed. Before 75.8.2, pkg_resources does not
        # find packages that are installed under their normalized names, and then loads no command. From 80.9 on, every
        # magnus command prints a warning about it.
        "setuptools>=75.8.2,<80.9; python_version >= '3.9'",
        "setuptools>=75.3,<80.9; python_version < '3.9'",
    ],
    extras_require={
        "postgres": POSTGRES,
        "mysql": MYSQL,
        "pandas": PANDAS,
        "report": REPORT,
        "benchmark": [
            *POSTGRES,
            *MYSQL,
            *REPORT,
            "psycopg2-binary>=2.9",
            "sqlalchemy>=2",
        ],
        "docs": ["furo", "myst-parser>=2", "sphinx>=7", "sphinx-click>=5"],
        "test": [
            *POSTGRES,
            *MYSQL,
            "hypothesis>=6.100",
            "magnus[docker]",
            "mysql-connector-python>=8.1",
            *PANDAS,
            *REPORT,
            "psycopg2-binary>=2.9",
            "pytest>=8",
            "pytest-xdist>=3.5",
            "sqlalchemy>=2",
        ],
    },
    entry_points={
        "console_scripts": ["magnus-db = magnus_peewee_store.cli:db"],
        "run_log_store": ["db = magnus_peewee_store:DBStore"],
        "executor": ["local-parallel = magnus_peewee_store.parallel.executor:LocalParallel"],
        "integration": [
            "db-local = magnus_peewee_store.integrations:LocalIntegration",
            "db-local-parallel = magnus_peewee_store.integrations:LocalParallelIntegration",
            "db-mocked = magnus_peewee_store.integrations:MockedIntegration",
            "db-local-container = magnus_peewee_store.integrations:LocalContainerIntegration",
            "db-argo = magnus_peewee_store.integrations:ArgoIntegration",
        ],
        "magnus.cli_plugins": ["db = magnus_peewee_store.cli:db"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3.8",
        "Programming Language :: Python :: 3.9",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Database",
        "Typing :: Typed",
    ],
)
