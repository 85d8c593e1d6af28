// SPDX-License-Identifier: Apache-2.0
// Disks that can't be read where they lie: gzip streams and chunks. They are unpacked or joined, as the bytes of the
// disk's file, in an unnamed temporary file; its zero blocks stay holes.
#pragma once

#include "libconvert/machine/machine.h"

namespace kvmport {

/// The most bytes that the file of a disk of `capacity` bytes may have: formats add tables to the data. Capacity 0
/// (unknown): 1032 times the packed size, which is the most that deflate can do.
std::uint64_t unpacked_limit(std::uint64_t capacity, std::uint64_t packed);

/// Joins the pieces of `disk`, and unpacks them when disk.gzip is set. Errors: DISK_TRUNCATED, IMAGE_CORRUPT,
/// DISK_TOO_LARGE (more than unpacked_limit), DISK_FULL, INTERRUPTED.
UniqueFd unpack_disk(const MachineDisk& disk, const std::filesystem::path& temp_directory, EventSink& sink);

} // namespace kvmport
