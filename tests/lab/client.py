#!/usr/bin/python3
"""A real client: raw TCP first, because pika hides why a handshake ended; then TLS where asked for; then login, channel, queue,
confirmed publish, get; or with --http one request of the HTTP API.

The password is read from standard input. Prints one JSON line: {"outcome": …, "detail": …} where outcome is one of
connected refused timeout unreachable tls-error auth-refused vhost-refused reset hangs closed.
"""

import argparse
import base64
import errno
import http.client
import json
import logging
import signal
import socket
import ssl
import sys

import pika
from pika import exceptions

TIMEOUT = 4  # seconds, for every step
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"


class Outcome(Exception):
    """The end of the attempt: outcome, detail."""


def tcp(args):
    """The connection and the broker's first frame, without a library in between."""
    source = (args.source, 0) if args.source else None
    try:
        connection = socket.create_connection((args.host, args.port), TIMEOUT, source)
    except TimeoutError as error:
        raise Outcome("timeout", f"connect: {error}")
    except ConnectionRefusedError as error:
        raise Outcome("refused", f"connect: {error}")
    except ConnectionResetError as error:
        raise Outcome("reset", f"connect: {error}")
    except OSError as error:
        unreachable = error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES)
        raise Outcome("unreachable" if unreachable else "closed", f"connect: {error}")
    with connection:
        if args.tcp or args.http:
            return
        if args.tls:
            connection = tls(args, connection)
        try:
            connection.sendall(PROTOCOL_HEADER)
            answer = connection.recv(8)
        except TimeoutError:
            raise Outcome("hangs", f"connected, but no answer to the AMQP header within {TIMEOUT} s")
        except ssl.SSLError as error:
            # With TLS 1.3 the server refuses a client without a certificate only after the handshake.
            raise Outcome("tls-error", f"TLS: {error!r}")
        except (ConnectionResetError, BrokenPipeError) as error:
            raise Outcome("reset", f"connected, then: {error}")
    if not answer:
        raise Outcome("closed", "connected, then closed without an answer")
    if answer[0] != 1:  # the type of a method frame: Connection.Start
        raise Outcome("closed", f"the answer is not AMQP 0-9-1: {answer!r}")


def context(args):
    """Verifies as clients do: the chain up to the given authority, and the name or address that was dialled."""
    made = ssl.create_default_context(cafile=args.ca)
    if args.cert:
        made.load_cert_chain(args.cert, args.key)
    if args.protocol:
        made.set_ciphers("ALL:@SECLEVEL=0")  # this machine's policy would refuse old versions by itself
        version = ssl.TLSVersion[args.protocol]
        made.minimum_version = ssl.TLSVersion.TLSv1
        made.maximum_version = version
    return made


def tls(args, connection):
    """The handshake. A server of TLS 1.3 refuses a client without certificate only at the first read."""
    try:
        secured = context(args).wrap_socket(connection, server_hostname=args.host)
        secured.settimeout(TIMEOUT)
        return secured
    except TimeoutError:
        raise Outcome("hangs", f"TLS: no end of the handshake within {TIMEOUT} s")
    except (OSError, ValueError) as error:
        raise Outcome("tls-error", f"TLS: {error!r}")


class Anonymous:
    """Credentials of the SASL mechanism ANONYMOUS."""

    TYPE = "ANONYMOUS"
    erase_on_connect = False

    def response_for(self, start):
        offered = start.mechanisms
        offered = offered.decode() if isinstance(offered, bytes) else offered
        return ("ANONYMOUS", b"") if "ANONYMOUS" in offered.split() else (None, None)

    def erase_credentials(self):
        pass


def amqp(args, password):
    """What an application does."""
    if args.anonymous:
        pika.credentials.VALID_TYPES.append(Anonymous)
    parameters = pika.ConnectionParameters(
        host=args.host,
        port=args.port,
        virtual_host=args.vhost,
        credentials=Anonymous() if args.anonymous else pika.PlainCredentials(args.user, password),
        ssl_options=pika.SSLOptions(context(args), args.host) if args.tls else None,
        socket_timeout=TIMEOUT,
        stack_timeout=TIMEOUT * 2,
        blocked_connection_timeout=TIMEOUT,
    )
    step = "open the connection"
    others = []
    try:
        for nth in range(args.connections - 1):
            step = f"open connection {nth + 1} of {args.connections}"
            others.append(pika.BlockingConnection(parameters))
        step = "open the connection"
        connection = pika.BlockingConnection(parameters)
        step = "open a channel"
        channel = connection.channel()
        step = "declare a queue"
        channel.queue_declare("probe-q", durable=True)
        step = "publish with confirm"
        channel.confirm_delivery()
        channel.basic_publish("", "probe-q", b"probe", mandatory=True)
        step = "get"
        method, _, _ = channel.basic_get("probe-q", auto_ack=True)
        if method is None:
            raise Outcome("closed", "get: the queue is empty after a confirmed publish")
        for each in [*others, connection]:
            each.close()
    except (exceptions.ProbableAuthenticationError, exceptions.AuthenticationError) as error:
        raise Outcome("auth-refused", f"{step}: {error}")
    except exceptions.ProbableAccessDeniedError as error:
        raise Outcome("vhost-refused", f"{step}: {error}")
    except exceptions.ConnectionClosedByBroker as error:
        outcome = {403: "auth-refused", 530: "vhost-refused"}.get(error.reply_code, "closed")
        raise Outcome(outcome, f"{step}: {error}")
    except exceptions.ChannelClosedByBroker as error:
        # Logged in, and refused what it wanted to do there.
        raise Outcome("vhost-refused" if error.reply_code == 403 else "closed", f"{step}: {error}")
    except exceptions.ConnectionBlockedTimeout as error:
        raise Outcome("hangs", f"{step}: {error}")
    except exceptions.AMQPError as error:
        raise Outcome("closed", f"{step}: {error!r}")


def api(args, password):
    """One request of the HTTP API, as its pages make it after the login."""
    connection = http.client.HTTPConnection(args.host, args.port, timeout=TIMEOUT)
    login = base64.b64encode(f"{args.user}:{password}".encode()).decode()
    try:
        connection.request("GET", "/api/overview", headers={"Authorization": f"Basic {login}"})
        answer = connection.getresponse()
        body = answer.read(300)
    except TimeoutError as error:
        raise Outcome("hangs", f"HTTP: {error}")
    except (OSError, http.client.HTTPException) as error:
        raise Outcome("reset", f"HTTP: {error!r}")
    if answer.status == 401:
        raise Outcome("auth-refused", f"HTTP: {answer.status} {body!r}")
    if answer.status != 200:
        raise Outcome("closed", f"HTTP: {answer.status} {body!r}")


def hung(*_):
    raise Outcome("hangs", "no end within 30 s")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", help="address to connect from")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, default=5672)
    parser.add_argument("--user", default="guest")
    parser.add_argument("--vhost", default="/")
    parser.add_argument("--tcp", action="store_true", help="connect, and nothing more")
    parser.add_argument("--http", action="store_true", help="the HTTP API in place of AMQP")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--ca", help="file of the authority to trust")
    parser.add_argument("--cert", help="file of the client's certificate")
    parser.add_argument("--key", help="file of its key")
    parser.add_argument("--protocol", help="at most this version of TLS, e.g. TLSv1_1")
    parser.add_argument("--anonymous", action="store_true", help="the SASL mechanism ANONYMOUS")
    parser.add_argument("--connections", type=int, default=1, help="as many at the same time")
    args = parser.parse_args()
    if args.source:
        bind_source(args.source)
    password = sys.stdin.readline().rstrip("\n")
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGALRM, hung)
    signal.alarm(30)
    try:
        tcp(args)
        if args.http:
            api(args, password)
        elif not args.tcp:
            amqp(args, password)
        outcome, detail = "connected", "published and got a message"
    except Outcome as end:
        outcome, detail = end.args
    print(json.dumps({"outcome": outcome, "detail": detail}))


def bind_source(address):
    """pika has no option for the source address: give it to every connection of this process."""
    connect = socket.socket.connect

    def bound(self, target):
        if self.getsockname()[1] == 0:
            self.bind((address, 0))
        return connect(self, target)

    socket.socket.connect = bound


if __name__ == "__main__":
    main()
