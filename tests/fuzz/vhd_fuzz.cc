// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/image_fuzz.h"

namespace {

using kvmport::Bytes;

void fix_checksum(Bytes& file, std::uint64_t offset, std::size_t length, std::size_t field) {
  if (offset > file.size() || file.size() - offset < length)
    return;
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < length; i++)
    if (i < field || i >= field + 4)
      sum += std::to_integer<std::uint32_t>(file[offset + i]);
  kvmport::store_be<std::uint32_t>(file, offset + field, ~sum);
}

} // namespace

/// Checksums are made good first: most inputs would end there otherwise.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto in = std::as_bytes(std::span(data, size));
  Bytes file(in.begin(), in.end());
  if (file.size() >= 1024) {
    fix_checksum(file, 0, 512, 64);
    fix_checksum(file, file.size() - 512, 512, 64);
    for (const std::size_t footer : {std::size_t{0}, file.size() - 512})
      if (const auto header = kvmport::load_be<std::uint64_t>(file, footer + 16); header >= 512)
        fix_checksum(file, header, 1024, 36);
    fix_checksum(file, file.size() - 512, 512, 64);
  }
  return kvmport::fuzz::run(file, "vhd");
}
