// SPDX-License-Identifier: Apache-2.0
// Public keys of ssh as OpenSSH writes them: base64 (RFC 4648) of the key's blob, and the fingerprint of it.
#pragma once

#include "base/bytes.h"

#include <optional>
#include <string>

namespace kvmport {

/// With padding.
std::string base64_encoded(ByteSpan bytes);
/// Nothing when `text` is empty or no padded base64.
std::optional<Bytes> base64_decoded(std::string_view text);

/// "SHA256:" and the digest's base64 without padding, as `ssh-keygen -l` prints it, of a key as known_hosts and *.pub
/// files have it after its type; nothing when that is no base64.
std::optional<std::string> ssh_fingerprint(std::string_view key);

} // namespace kvmport
