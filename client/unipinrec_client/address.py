"""Where a server is, as gRPC and as HTTP take it."""

import ipaddress
import re

_HTTP_FORM = "host:port with a port of 1 to 65535, alone or after {scheme}://, then a path or none"
_GRPC_FORM = (
    "host:port with a port of 1 to 65535, alone or after {scheme}://, or one of gRPC's own targets, as "
    "dns:///host:port, ipv4:address:port,address:port or unix:///path"
)

_HOST_PORT = re.compile(r"(\[[^\[\]/]+\]|[^\[\]/:@?#]+)(?::([0-9]{1,5}))?")
_ADDRESS_SCHEMES = {"dns": None, "ipv4": 4, "ipv6": 6}
"""gRPC's schemes before one or several addresses, and the version of IP that these must have."""
_OTHER_SCHEMES = ("unix", "unix-abstract", "vsock", "xds")


def http_address(url: str, *, ssl: bool = False) -> str:
    """Return host, port and path of `url`, as tritonclient's HTTP clients take them.

    Raises `ValueError` unless it is `host:port`, optionally followed by a path, alone or after `http://`
    (`https://` with `ssl`), where the port may be left out.
    """
    scheme = "https" if ssl else "http"
    address = _without_scheme(url, scheme)
    host_port = address.partition("/")[0]
    if set("?#") & set(address) or not _is_host_port(host_port, needs_port=address == url):
        raise ValueError(f"url is {url!r}; allowed: {_HTTP_FORM.format(scheme=scheme)}")
    return address


def grpc_target(url: str, *, ssl: bool = False) -> str:
    """Return `url` as gRPC takes it.

    Raises `ValueError` unless it is `host:port`, alone or after `http://` (`https://` with `ssl`), or one of
    gRPC's own targets: `dns:`, `ipv4:` or `ipv6:` before addresses with ports, or `unix:`, `unix-abstract:`,
    `vsock:` or `xds:` before a name.
    """
    scheme = "https" if ssl else "http"
    target = _without_scheme(url, scheme)
    kind, _, name = target.partition(":")
    if kind in _OTHER_SCHEMES:
        valid = bool(name.strip("/"))
    else:
        version, addresses = _ADDRESS_SCHEMES.get(kind), _addresses(target)
        valid = all(_is_host_port(address) for address in addresses) and (
            len(addresses) == 1 if version is None else {_ip_version(a) for a in addresses} == {version}
        )
    if not valid:
        raise ValueError(f"url is {url!r}; allowed: {_GRPC_FORM.format(scheme=scheme)}")
    return target


def may_be_several_servers(target: str) -> bool:
    """Return whether a target of gRPC is written as one that may stand for several servers."""
    return target.partition(":")[0] in _ADDRESS_SCHEMES


def is_this_machine(target: str) -> bool:
    """Return whether all addresses of a target of gRPC are loopback addresses or `localhost`."""
    return all(_is_loopback(_host(address)) for address in _addresses(target))


def _without_scheme(url: object, scheme: str) -> str:
    """What follows the scheme, if there is one; empty for what cannot be an address."""
    if not isinstance(url, str) or not url.isprintable() or " " in url:
        return ""
    return url.removeprefix(f"{scheme}://")


def _addresses(target: str) -> list[str]:
    """What is between the commas, without gRPC's scheme and the name server that it asks."""
    scheme, _, name = target.partition(":")
    return re.sub("^//[^/]*/", "", name).split(",") if scheme in _ADDRESS_SCHEMES else [target]


def _is_host_port(text: str, *, needs_port: bool = True) -> bool:
    match = _HOST_PORT.fullmatch(text)
    if match is None or (text.startswith("[") and _ip_version(text) != 6):
        return False
    return 1 <= int(match[2]) <= 65535 if match[2] else not needs_port


def _host(address: str) -> str:
    match = _HOST_PORT.fullmatch(address)
    return match[1].strip("[]") if match else address


def _ip_version(address: str) -> int | None:
    try:
        return ipaddress.ip_address(_host(address)).version
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.rstrip(".").lower().rpartition(".")[2] == "localhost"
    address = getattr(address, "ipv4_mapped", None) or address
    # The unspecified address reaches this machine, too.
    return address.is_loopback or address.is_unspecified
