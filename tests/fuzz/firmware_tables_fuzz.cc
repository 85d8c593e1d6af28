// SPDX-License-Identifier: Apache-2.0
// SMBIOS tables and EFI load options: what the firmware of a machine, or a recording of one, gives the inventory.
#include "libconvert/p2v/efi_variables.h"
#include "libconvert/p2v/smbios.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvmport;
  if (size == 0)
    return 0;
  const ByteSpan bytes = std::as_bytes(std::span(data, size)).subspan(1);
  if (data[0] % 2 == 0) {
    const std::size_t entry_point = std::min<std::size_t>(bytes.size(), 0x18);
    summarize_smbios(bytes.first(entry_point), bytes.subspan(entry_point));
  } else {
    parse_boot_option(1, bytes);
    parse_boot_order(bytes);
  }
  return 0;
}
