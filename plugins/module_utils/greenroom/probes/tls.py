"""TLS: the chain verifies, the name matches, the certificate still lives long enough, old protocols are refused."""

from __future__ import annotations

import socket
import ssl
import time
import warnings

from .base import Arg, Context, Outcome, Probe, ProbeError, network_problem, tls_context
from .client import split_address

_ORDER = ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"]


def run(args: dict, context: Context) -> Outcome:
    name = args["sni"] or args["host"]
    target = split_address(args["connect_to"], args["port"]) if args["connect_to"] else (args["host"], args["port"])
    where = f"{target[0]}:{target[1]}"
    wanted = f"a verified certificate for {name}, valid {args['days_left']} days or more, {args['min_protocol']} or newer only"
    verifying = tls_context(args["ca_file"])
    try:
        with socket.create_connection(target, context.remaining()) as plain:
            plain.settimeout(context.remaining())
            with verifying.wrap_socket(plain, server_hostname=name) as secured:
                protocol, certificate, cipher = secured.version(), secured.getpeercert(), secured.cipher()[0]
    except (OSError, ssl.CertificateError) as error:
        seen = network_problem(error, context.timeout_s)
        return Outcome(False, wanted, seen, f"{where} as {name}: {seen}")
    days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86400
    problems = []
    if days < args["days_left"]:
        problems.append(f"the certificate ends in {days:.1f} days ({certificate['notAfter']}); renew it")
    if _ORDER.index(protocol) < _ORDER.index(args["min_protocol"]):
        problems.append(f"the server negotiated {protocol}")
    old = None
    if args["refuse_older"] and args["min_protocol"] != "TLSv1":
        old = _accepts_older(target, name, args["min_protocol"], context)
        if old:
            problems.append(f"the server accepts {old}")
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    detail = {"protocol": protocol, "cipher": cipher, "days_left": round(days, 1), "not_after": certificate["notAfter"], "names": names}
    seen = f"verified, {', '.join(names)}, {days:.0f} days left, {protocol}" + (f", {old} accepted" if old else "")
    return Outcome(not problems, wanted, seen, "; ".join(f"{where}: {problem}" for problem in problems) or None, detail)


def _accepts_older(target: tuple, name: str, minimum: str, context: Context) -> str | None:
    """The protocol below `minimum` that the server accepts, None if it refuses them. Offers them without verification: no data is sent."""
    offer = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    offer.check_hostname, offer.verify_mode = False, ssl.CERT_NONE
    offer.set_ciphers("ALL:@SECLEVEL=0")  # this side must not be the one that refuses
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        offer.minimum_version = ssl.TLSVersion.TLSv1
        offer.maximum_version = {"TLSv1.1": ssl.TLSVersion.TLSv1, "TLSv1.2": ssl.TLSVersion.TLSv1_1, "TLSv1.3": ssl.TLSVersion.TLSv1_2}[
            minimum
        ]
    try:
        with socket.create_connection(target, context.remaining()) as plain:
            plain.settimeout(context.remaining())
            with offer.wrap_socket(plain, server_hostname=name) as secured:
                return secured.version()
    except ssl.SSLError as error:
        if error.reason == "NO_PROTOCOLS_AVAILABLE":
            raise ProbeError("this host's OpenSSL cannot offer older protocols; set refuse_older: false to leave that part out") from error
        return None
    except ConnectionResetError:
        return None


PROBE = Probe(
    "tls",
    "a TLS server shows a verified certificate that lives long enough and refuses old protocols",
    {
        "host": Arg("str", "host name or address", required=True),
        "port": Arg("int", "port number", default=443),
        "sni": Arg("str", "name to ask for and to verify, default host"),
        "connect_to": Arg("str", "host or host:port to connect to instead"),
        "ca_file": Arg("str", "file of the authorities to trust instead of the system's"),
        "days_left": Arg("int", "days the certificate must still be valid", default=14),
        "min_protocol": Arg("str", "oldest protocol allowed", default="TLSv1.2", choices=("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")),
        "refuse_older": Arg("bool", "prove by trying that older protocols are refused", default=True),
    },
    run,
)
