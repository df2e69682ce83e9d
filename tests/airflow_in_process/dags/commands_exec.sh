#!/bin/sh
echo executed > out.txt
