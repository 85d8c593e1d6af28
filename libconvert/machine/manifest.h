// SPDX-License-Identifier: Apache-2.0
// The manifest (.mf) of an OVF package: which digest each file must have (DSP0243 2.1.1, 6.1; the SHA1/SHA256/SHA512
// forms that VMware and VirtualBox write).
#pragma once

#include "formats/image.h"

#include <map>
#include <memory>
#include <string>

namespace kvmport {

/// File name → "sha256:…" (algorithm and hex in lower case).
using Manifest = std::map<std::string, std::string>;

/// Lines "SHA256(name)= hex"; spaces and case are free, CRLF is fine, the strongest of several digests of a file
/// counts. Error DESCRIPTION_INVALID for other lines and contradictions.
Manifest parse_manifest(const std::string& text, const std::string& name);

/// A digest under way, by the algorithm that `like` ("sha256:…") starts with.
class Digest {
 public:
  explicit Digest(const std::string& like);
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;
  ~Digest();
  void add(ByteSpan bytes);
  /// "sha256:…"; call it once, at the end.
  std::string result();

 private:
  struct State;
  std::unique_ptr<State> state_;
};
std::string digest_of(std::string_view text, const std::string& like);

/// Error MANIFEST_MISMATCH for the file `name`.
Error manifest_mismatch(const std::string& name, const std::string& why);

} // namespace kvmport
