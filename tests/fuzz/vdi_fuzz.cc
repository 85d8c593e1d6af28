// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/image_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return kvmport::fuzz::run(std::as_bytes(std::span(data, size)), "vdi");
}
