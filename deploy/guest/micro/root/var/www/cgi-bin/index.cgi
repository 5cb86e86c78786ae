#!/bin/sh
# Names the guest, so that whoever asks knows which one answered. An index.html
# beside cgi-bin takes its place.
name=$(hostname)
printf 'Content-Type: text/html; charset=utf-8\r\n\r\n'
printf '<!doctype html>\n<title>%s</title>\n<h1>%s</h1>\n<p>Served by the Orlop micro guest.</p>\n' "$name" "$name"
