// SPDX-License-Identifier: Apache-2.0
// Small pieces of machine code run straight on /dev/kvm (Linux Documentation/virt/kvm/api.rst), to see what it can do.
// Everything runs in a child process with a deadline, so that not even a KVM that hangs does harm.
#pragma once

#include <array>
#include <chrono>
#include <filesystem>
#include <string_view>

namespace kvmport {

enum class Snippet { int3, cmpxchg16b, paging32, iret32, fwait, addps, xsave, syscall };
constexpr std::size_t snippet_count = 8;
std::string_view snippet_name(Snippet snippet);

/// Plain data: it comes through a socket from the child.
struct KvmTrial {
  enum class Step : int { done, open, not_kvm, create, died } failed_at = Step::done;
  int error = 0;          ///< errno of a failed step
  double mips_real16 = 0; ///< million instructions a second; 0: did not run
  double mips_ring0 = 0;  ///< long mode, ring 0
  enum class Result : int { not_run, ok, fails } snippets[snippet_count] = {};
};

/// Tries `device`, for at most `limit`. Error when no child process can be made.
KvmTrial try_kvm(const std::filesystem::path& device, std::chrono::milliseconds limit);

} // namespace kvmport
