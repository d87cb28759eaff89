"""Requests through the gateway, all with one id: requests.py COUNT. Prints how many were answered."""

import http.client
import ssl
import sys

context = ssl.create_default_context(cafile="/etc/greenroom/ca.crt")
connection = http.client.HTTPSConnection("localhost", context=context, timeout=10)
answered = 0
for number in range(int(sys.argv[1])):
    connection.request("GET", f"/things?n={number}", headers={"X-Request-Id": "molecule-request-1", "Host": "example.molecule.internal"})
    answer = connection.getresponse()
    answer.read()
    answered += answer.status == 200
print(answered)
