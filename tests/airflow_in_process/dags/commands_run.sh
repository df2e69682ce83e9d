# no Python, and not executable
echo "ran with $1" > out.txt
