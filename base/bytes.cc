// SPDX-License-Identifier: Apache-2.0
#include "base/bytes.h"

namespace kvmport {

bool is_zero(ByteSpan bytes) {
  // The first 16 bytes are looked at one by one, then the rest is compared with itself, shifted: memcmp is vectorised.
  std::size_t head = std::min<std::size_t>(bytes.size(), 16);
  for (std::size_t i = 0; i < head; i++)
    if (bytes[i] != std::byte{0})
      return false;
  return bytes.size() <= 16 || std::memcmp(bytes.data(), bytes.data() + 16, bytes.size() - 16) == 0;
}

} // namespace kvmport
