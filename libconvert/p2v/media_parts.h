// SPDX-License-Identifier: Apache-2.0
// The two halves of building a medium: what is in its initramfs, and the image around that. See media.h.
#pragma once

#include "libconvert/p2v/initramfs_writer.h"
#include "libconvert/p2v/media.h"

namespace kvmport {

struct MediaParts {
  MediumKernel kernel;
  std::filesystem::path initramfs;
  std::vector<std::string> arguments;
  std::int64_t time = 0;
};

/// Programs, libraries, drivers, firmware and settings; counts them in `result`.
void fill_medium_tree(InitramfsTreeWriter& tree, const MediaOptions& options, const MediumKernel& kernel,
                      MediaResult& result);

/// grub-mkrescue's image with kernel, initramfs and menu, made in `scratch`.
void write_hybrid_image(const MediaParts& parts, const std::filesystem::path& scratch,
                        const std::filesystem::path& image);

} // namespace kvmport
