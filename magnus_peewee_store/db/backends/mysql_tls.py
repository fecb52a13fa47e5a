"""Translate MySQL's own options for TLS for drivers that do not know them."""

import os
from typing import Any, Dict, Optional

# https://dev.mysql.com/doc/refman/8.0/en/connection-options.html#option_general_ssl-mode
MODES = ("DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY")
VERIFYING = ("VERIFY_CA", "VERIFY_IDENTITY")


def find_mode(options: Dict[str, Any]) -> Optional[str]:
    """Return the TLS mode that the options of a connection string ask for; None if they leave it to the driver.

    A CA alone asks for VERIFY_CA, as with MySQL's own client.

    Raises:
        ValueError: If the options contradict each other, or if they seem to check the certificate but do not.
    """
    has_ca = bool(options.get("ssl_ca"))
    is_verifying = bool(options.get("ssl_verify_cert") or options.get("ssl_verify_identity"))
    mode = options.get("ssl_mode")
    if mode is not None:
        mode = str(mode).upper()
        if mode not in MODES:
            raise ValueError(f"ssl_mode is one of {', '.join(MODES)}")
        if "ssl" in options:
            raise ValueError("ssl and ssl_mode say the same. Write ssl_mode alone")
    elif "ssl" in options:
        if options["ssl"] not in (True, False):
            raise ValueError("ssl is true or false")
        if not options["ssl"]:
            mode = "DISABLED"
        elif not (has_ca or is_verifying):
            mode = "REQUIRED"
    if mode is None and has_ca and options.get("ssl_verify_cert") in (None, True):
        mode = "VERIFY_IDENTITY" if options.get("ssl_verify_identity") else "VERIFY_CA"
    if (is_verifying or mode in VERIFYING) and not has_ca:
        raise ValueError("The server's certificate is checked only with ssl_ca, the file of the CA that signed it")
    if mode is not None and mode not in VERIFYING and (has_ca or is_verifying):
        raise ValueError(f"{mode} does not check the server's certificate. Write ssl_mode=VERIFY_CA or VERIFY_IDENTITY")
    if has_ca and not os.path.isfile(str(options["ssl_ca"])):
        raise ValueError("The file that ssl_ca names does not exist")
    return mode


def driver_options(options: Dict[str, Any], mode: Optional[str]) -> Dict[str, Any]:
    """Return the options as PyMySQL and mysql-connector know them. Neither driver has an option for REQUIRED."""
    options = {name: value for name, value in options.items() if name not in ("ssl", "ssl_mode")}
    if mode == "DISABLED":
        options["ssl_disabled"] = True
    if mode in VERIFYING:
        options["ssl_verify_cert"] = True
    if mode == "VERIFY_IDENTITY":
        options["ssl_verify_identity"] = True
    return options
