// SPDX-License-Identifier: Apache-2.0
#include "base/ssh_key.h"

#include <array>
#include <openssl/evp.h>

namespace kvmport {

std::string base64_encoded(ByteSpan bytes) {
  std::string text(div_round_up(bytes.size(), 3) * 4 + 1, '\0');
  const int length =
      ::EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                        reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<int>(bytes.size()));
  text.resize(static_cast<std::size_t>(length));
  return text;
}

std::optional<Bytes> base64_decoded(std::string_view text) {
  if (text.empty() || text.size() % 4 != 0 || text.size() > (1U << 20))
    return std::nullopt;
  Bytes bytes(text.size() / 4 * 3);
  const int length =
      ::EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                        reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  if (length < 0)
    return std::nullopt;
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  bytes.resize(static_cast<std::size_t>(length) - padding);
  return bytes;
}

std::optional<std::string> ssh_fingerprint(std::string_view key) {
  const auto blob = base64_decoded(key);
  if (!blob)
    return std::nullopt;
  std::array<std::byte, 32> digest{};
  if (::EVP_Digest(blob->data(), blob->size(), reinterpret_cast<unsigned char*>(digest.data()), nullptr, ::EVP_sha256(),
                   nullptr) != 1)
    throw Error("INTERNAL", "SHA-256 failed");
  std::string text = base64_encoded(digest);
  text.erase(text.find_last_not_of('=') + 1);
  return "SHA256:" + text;
}

} // namespace kvmport
