// SPDX-License-Identifier: Apache-2.0
#include "formats/vhdx_log.h"
#include "tests/fuzz/image_fuzz.h"

namespace {

using kvmport::Bytes;
using kvmport::ByteSpan;

void fix_checksum(Bytes& file, std::size_t offset, std::size_t length) {
  if (offset <= file.size() && file.size() - offset >= length)
    kvmport::store_le<std::uint32_t>(file, offset + 4,
                                     kvmport::vhdx::crc32c(ByteSpan(file).subspan(offset, length), 4));
}

} // namespace

/// Input: see unpack(). Checksums are made good first: most inputs would end there otherwise.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes file = kvmport::fuzz::unpack(std::as_bytes(std::span(data, size)));
  for (std::size_t at = 0; at + 4096 <= file.size(); at += 4096)
    if (kvmport::as_text(ByteSpan(file).subspan(at, 4)) == "loge")
      fix_checksum(file, at, std::min<std::size_t>(kvmport::load_le<std::uint32_t>(file, at + 8), 64U << 10));
  for (const std::size_t kib : {64, 128})
    fix_checksum(file, kib << 10, 4096);
  for (const std::size_t kib : {192, 256})
    fix_checksum(file, kib << 10, 64 << 10);
  return kvmport::fuzz::run(file, "vhdx");
}
