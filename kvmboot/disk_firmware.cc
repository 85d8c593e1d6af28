// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/disk_firmware.h"

#include <array>

namespace kvmport {

Firmware guess_firmware(const Image& disk) {
  constexpr std::size_t boot_code_size = 440, table_at = 446, entry_size = 16, type_at = 4, signature_at = 510;
  std::array<std::byte, 512> mbr{};
  if (disk.size() < mbr.size())
    return Firmware::bios;
  disk.read(0, mbr);
  if (load_le<std::uint16_t>(mbr, signature_at) != 0xaa55 || !is_zero(std::span(mbr).first(boot_code_size)))
    return Firmware::bios;
  for (std::size_t n = 0; n < 4; n++) {
    const auto type = std::to_integer<unsigned>(mbr.at(table_at + n * entry_size + type_at));
    if (type == 0xee || type == 0xef)
      return Firmware::uefi;
  }
  return Firmware::bios;
}

} // namespace kvmport
