// SPDX-License-Identifier: Apache-2.0
// Kernels of Linux as files: bzImages (Linux Documentation/arch/x86/boot.rst, protocol 2.10 and later), ELF64 files
// with a PVH entry (Xen docs/misc/pvh.pandoc, public/arch-x86/hvm/start_info.h) and other ELF64 vmlinux files. They are
// hostile.
#pragma once

#include "base/bytes.h"

#include <asm/bootparam.h>
#include <string>
#include <vector>

namespace kvmport {

/// A stretch of physical memory: `content`, then zeros up to `size`.
struct KernelSegment {
  std::uint64_t address = 0, size = 0;
  ByteSpan content; ///< borrowed from the file
};

struct KernelImage {
  enum class Entry { pvh, linux32, linux64 };
  Entry entry = Entry::linux64;
  std::uint64_t start = 0;             ///< address at which it is entered
  std::vector<KernelSegment> segments; ///< not empty, apart from each other
  bool relocatable = false;            ///< the only segment may lie at another multiple of header.kernel_alignment
  setup_header header{};               ///< made up for an ELF file, which has none

  /// The first byte behind all segments.
  std::uint64_t end() const;
};

/// `file` must outlive what is returned. Errors: KERNEL_IMAGE_INVALID, KERNEL_TOO_LARGE (for any memory).
KernelImage read_kernel_image(ByteSpan file);

/// The version that an x86 kernel image says of itself (boot.rst, field kernel_version), from its first bytes; empty:
/// none.
std::string kernel_image_version(std::string_view head);

} // namespace kvmport
