// SPDX-License-Identifier: Apache-2.0
// Errors. Every refusal and failure is one `Error`: a stable code for programs, and for people what happened, why, and
// what to do about it. The codes are listed in kvmport-report(5).
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace kvmport {

/// Thrown for everything that stops an operation. Immutable; safe to copy between threads.
class Error : public std::runtime_error {
 public:
  /// `code`: stable, upper case with underscores ("DISK_TRUNCATED"). `what`: one line naming the thing and what is
  /// wrong. `why`: the evidence (offset, value, limit), may be empty. `hint`: what the user can do, may be empty.
  Error(std::string code, std::string what, std::string why = {}, std::string hint = {});

  const std::string& code() const noexcept { return code_; }
  const std::string& summary() const noexcept { return what_; }
  const std::string& why() const noexcept { return why_; }
  const std::string& hint() const noexcept { return hint_; }

  /// A copy of this error whose summary starts with `context` + ": " (a file name, a stage).
  Error within(std::string_view context) const;

 private:
  std::string code_, what_, why_, hint_;
};

/// An `Error` from errno: code "NO_PERMISSION", "NOT_FOUND", "DISK_FULL" or "IO_ERROR", chosen by `errnum`.
Error system_error(int errnum, std::string_view what);

} // namespace kvmport
