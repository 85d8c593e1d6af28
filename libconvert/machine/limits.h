// SPDX-License-Identifier: Apache-2.0
// Bounds on the numbers that descriptions give, shared by the readers.
#pragma once

#include "libconvert/machine/machine.h"
#include "libconvert/machine/text.h"

namespace kvmport {

constexpr std::uint64_t max_memory = std::uint64_t{64} << 40; ///< what x86 can address today
constexpr std::uint64_t max_cpus = 4096;
constexpr std::size_t max_disks = 1024;

/// `bytes` as the machine's memory. Errors: MEMORY_MISSING when there is none or it is zero, DESCRIPTION_INVALID beyond
/// the bounds.
std::uint64_t checked_memory(std::optional<std::uint64_t> bytes, const std::string& name);

/// Fills a topology of `count` processors with `cores` per socket (0: one) and `threads` per core; when they don't
/// divide `count` there are `count` sockets of one core, and a note says so. Error DESCRIPTION_INVALID beyond the
/// bounds.
MachineCpu checked_cpu(std::uint64_t count, std::uint64_t cores, std::uint64_t threads, const std::string& name,
                       std::vector<std::string>& notes);

} // namespace kvmport
