#!/usr/bin/python3
"""A real AMQP client: raw TCP first, because pika hides why a handshake ended; then login, channel, queue, confirmed publish, get.

The password is read from standard input. Prints one JSON line: {"outcome": …, "detail": …} where outcome is one of
connected refused timeout unreachable auth-refused vhost-refused reset hangs closed.
"""

import argparse
import errno
import json
import logging
import signal
import socket
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
        try:
            connection.sendall(PROTOCOL_HEADER)
            answer = connection.recv(8)
        except TimeoutError:
            raise Outcome("hangs", f"connected, but no answer to the AMQP header within {TIMEOUT} s")
        except (ConnectionResetError, BrokenPipeError) as error:
            raise Outcome("reset", f"connected, then: {error}")
    if not answer:
        raise Outcome("closed", "connected, then closed without an answer")
    if answer[0] != 1:  # the type of a method frame: Connection.Start
        raise Outcome("closed", f"the answer is not AMQP 0-9-1: {answer!r}")


def amqp(args, password):
    """What an application does."""
    parameters = pika.ConnectionParameters(
        host=args.host,
        port=args.port,
        virtual_host=args.vhost,
        credentials=pika.PlainCredentials(args.user, password),
        socket_timeout=TIMEOUT,
        stack_timeout=TIMEOUT * 2,
        blocked_connection_timeout=TIMEOUT,
    )
    step = "open the connection"
    try:
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
        connection.close()
    except (exceptions.ProbableAuthenticationError, exceptions.AuthenticationError) as error:
        raise Outcome("auth-refused", f"{step}: {error}")
    except exceptions.ProbableAccessDeniedError as error:
        raise Outcome("vhost-refused", f"{step}: {error}")
    except exceptions.ConnectionClosedByBroker as error:
        outcome = {403: "auth-refused", 530: "vhost-refused"}.get(error.reply_code, "closed")
        raise Outcome(outcome, f"{step}: {error}")
    except exceptions.ConnectionBlockedTimeout as error:
        raise Outcome("hangs", f"{step}: {error}")
    except exceptions.AMQPError as error:
        raise Outcome("closed", f"{step}: {error!r}")


def hung(*_):
    raise Outcome("hangs", "no end within 30 s")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", help="address to connect from")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, default=5672)
    parser.add_argument("--user", default="guest")
    parser.add_argument("--vhost", default="/")
    args = parser.parse_args()
    if args.source:
        bind_source(args.source)
    password = sys.stdin.readline().rstrip("\n")
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGALRM, hung)
    signal.alarm(30)
    try:
        tcp(args)
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
