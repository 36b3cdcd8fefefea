"""The product service: a plain web service. It speaks HTTP, knows nothing of brokers, and has no client of one.

    product.py PORT

What is sent to `product` comes as a POST; the answer to the POST is the answer to the message.
"""

import http.server
import json
import os
import sys

import requests

API = os.environ.get("WAYPOST_HTTP", "http://127.0.0.1:8500")


class Prices(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        answer = json.dumps({"order": asked["order"], "sku": asked["sku"], "cents": 1000 + len(asked["sku"])}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_) -> None:
        pass


def main(port: int) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Prices)
    server.daemon_threads = True
    address = f"http://127.0.0.1:{server.server_port}/"
    # Anybody may register it; here it does so itself.
    me = {"version": "1.4.0", "zone": "eu-1", "push": {"url": address, "concurrency": 4}}
    registered = requests.put(f"{API}/api/v1/services/product/instances/product-1", json=me, timeout=10)
    registered.raise_for_status()
    print(f"product-1 serves at {address}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
