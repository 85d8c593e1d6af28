// SPDX-License-Identifier: Apache-2.0
#include "formats/image.h"

namespace kvmport {

std::optional<FileRange> Image::file_range(Range) const {
  return std::nullopt;
}

bool ImageWriter::known_zero(Range) const {
  return false;
}

} // namespace kvmport
