#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: run.sh CLASS ARGUMENT…
exec java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "classes:$(cat classpath.txt)" "$@"
