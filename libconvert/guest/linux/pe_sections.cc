// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/linux/pe_sections.h"

#include "base/bytes.h"

#include <algorithm>

namespace kvmport::linux_guest {

std::optional<std::string> pe_section(std::string_view image, std::string_view name) {
  const ByteSpan bytes = as_bytes(image);
  if (image.size() < 0x40 || !image.starts_with("MZ"))
    return std::nullopt;
  const std::uint64_t header = load_le<std::uint32_t>(bytes, 0x3c); // e_lfanew
  constexpr std::uint64_t coff_size = 24, section_size = 40;
  if (header + coff_size > image.size() || image.substr(header, 4) != std::string_view("PE\0\0", 4))
    return std::nullopt;
  const std::uint64_t sections = load_le<std::uint16_t>(bytes, header + 6);
  const std::uint64_t optional_size = load_le<std::uint16_t>(bytes, header + 20);
  for (std::uint64_t i = 0; i < sections; i++) {
    const std::uint64_t at = header + coff_size + optional_size + i * section_size;
    if (at + section_size > image.size())
      return std::nullopt;
    std::string_view own = image.substr(at, 8);
    own = own.substr(0, own.find('\0'));
    if (own != name)
      continue;
    const std::uint64_t virtual_size = load_le<std::uint32_t>(bytes, at + 8);
    const std::uint64_t raw_size = load_le<std::uint32_t>(bytes, at + 16);
    const std::uint64_t raw_at = load_le<std::uint32_t>(bytes, at + 20);
    if (raw_at > image.size())
      return std::nullopt;
    const std::uint64_t size = std::min({virtual_size == 0 ? raw_size : virtual_size, raw_size, image.size() - raw_at});
    std::string content(image.substr(raw_at, size));
    content.erase(std::min(content.find('\0'), content.size()));
    return content;
  }
  return std::nullopt;
}

bool pe_signed(std::string_view image) {
  const ByteSpan bytes = as_bytes(image);
  if (image.size() < 0x40 || !image.starts_with("MZ"))
    return false;
  constexpr std::uint16_t pe32_plus = 0x20b;
  constexpr std::uint64_t optional_header = 24, certificates = 4, directory_size = 8;
  const std::uint64_t header = load_le<std::uint32_t>(bytes, 0x3c) + optional_header;
  if (header + 2 > image.size())
    return false;
  const std::uint64_t directories = header + (load_le<std::uint16_t>(bytes, header) == pe32_plus ? 112 : 96);
  const std::uint64_t at = directories + certificates * directory_size;
  return at + directory_size <= image.size() && load_le<std::uint32_t>(bytes, directories - 4) > certificates &&
         load_le<std::uint32_t>(bytes, at + 4) > 0;
}

} // namespace kvmport::linux_guest
