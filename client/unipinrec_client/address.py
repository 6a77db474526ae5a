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
    has_scheme, address = _behind_scheme(url, _HTTP_FORM, ssl)
    host_port = address.partition("/")[0]
    if set("?#") & set(address) or not _is_host_port(host_port, needs_port=not has_scheme):
        raise _refusal(url, _HTTP_FORM, ssl)
    return address


def grpc_target(url: str, *, ssl: bool = False) -> str:
    """Return `url` as gRPC takes it.

    Raises `ValueError` unless it is `host:port`, alone or after `http://` (`https://` with `ssl`), or one of
    gRPC's own targets: `dns:`, `ipv4:` or `ipv6:` before addresses with ports, or `unix:`, `unix-abstract:`,
    `vsock:` or `xds:` before a name.
    """
    _, target = _behind_scheme(url, _GRPC_FORM, ssl, but_not=(*_ADDRESS_SCHEMES, *_OTHER_SCHEMES))
    scheme, _, name = target.partition(":")
    if scheme in _OTHER_SCHEMES:
        valid = bool(name.strip("/"))
    else:
        version = _ADDRESS_SCHEMES.get(scheme)
        addresses = _addresses(target)
        valid = all(_is_host_port(address) for address in addresses) and (
            len(addresses) == 1 if version is None else {_ip_version(a) for a in addresses} == {version}
        )
    if not valid:
        raise _refusal(url, _GRPC_FORM, ssl)
    return target


def may_be_several_servers(target: str) -> bool:
    """Return whether a target of gRPC is written as one that may stand for several servers."""
    return target.partition(":")[0] in _ADDRESS_SCHEMES


def is_this_machine(target: str) -> bool:
    """Return whether all addresses of a target of gRPC are loopback addresses or `localhost`."""
    return all(_is_loopback(_host(address)) for address in _addresses(target))


def _behind_scheme(url: str, form: str, ssl: bool, but_not: tuple[str, ...] = ()) -> tuple[bool, str]:
    """Whether there is a scheme of HTTP, and what follows it; one of `but_not` stays where it is."""
    if not isinstance(url, str) or not url.isprintable() or " " in url:
        raise _refusal(url, form, ssl)
    scheme, separator, address = url.partition("://")
    if not separator or scheme in but_not:
        return False, url
    if scheme != _scheme(ssl):
        raise _refusal(url, form, ssl)
    return True, address


def _refusal(url: object, form: str, ssl: bool) -> ValueError:
    return ValueError(f"url is {url!r}; allowed: {form.format(scheme=_scheme(ssl))}")


def _scheme(ssl: bool) -> str:
    return "https" if ssl else "http"


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
