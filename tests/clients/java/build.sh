#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds the stubs' jar and the two programs, and keeps the class path that they run with.
set -eu
stubs=$PWD/../../stubs/java
mvn -q -B -f "$stubs/pom.xml" package org.apache.maven.plugins:maven-dependency-plugin:3.8.1:build-classpath -Dmdep.outputFile="$PWD/dependencies.txt" -DskipTests
echo "$stubs/target/$(basename "$stubs"/target/*.jar):$(cat dependencies.txt)" >classpath.txt
mkdir -p classes
javac -d classes -cp "$(cat classpath.txt)" ScriptedSession.java Trainer.java
