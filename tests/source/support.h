// SPDX-License-Identifier: Apache-2.0
// OVF packages for the tests of sources.
#pragma once

#include "tests/support/tempdir.h"

#include <functional>

namespace kvmport::test {

/// The code of the Error that `action` throws, "" when it throws none.
std::string error_code(const std::function<void()>& action);

/// An OVF description of a machine with one disk.
struct OvfText {
  std::string format, file_attributes;
  std::uint64_t capacity = 0;
  bool blank = false; ///< the disk has no file
  std::string text(const std::string& disk) const;
};

/// An OVA made by tar(1): description, manifest of the digests of `algorithm` ("" for none), disk.
std::string ova_bytes(const std::string& disk, const std::string& bytes, const OvfText& ovf,
                      const std::string& algorithm);

} // namespace kvmport::test
