# shellcheck shell=bash
# 24 random bytes as text that is text wherever it is read: it begins with a letter, since nats-server, YAML and others take 1e10…, or digits alone, for numbers.
random() {
  local bytes
  bytes=$(od -An -tx1 -v -N24 /dev/urandom)
  printf 's%s' "${bytes//[[:space:]]/}"
}
