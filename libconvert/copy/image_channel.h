// SPDX-License-Identifier: Apache-2.0
// Lets libext2fs read a part of an Image: a read-only I/O manager. Errors of the image become error codes, since no
// exception may cross the library's frames.
#pragma once

#include "formats/image.h"

#include <ext2fs/ext2fs.h>
#include <string>

namespace kvmport {

/// What one filesystem handle reads. Must outlive the handle and stay where it is.
struct ImageWindow {
  const Image& image;
  Range range; ///< inside the image
};

/// The manager, and the "device name" to open with it: it carries the window's address, because the library passes
/// nothing else on to open().
io_manager image_io_manager();
std::string image_io_name(const ImageWindow& window);

} // namespace kvmport
