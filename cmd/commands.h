// SPDX-License-Identifier: Apache-2.0
// `kvm-v2v copy` and `kvm-v2v info`.
#pragma once

#include "cmd/cli.h"

#include <filesystem>

namespace kvmport {

struct CopyArguments {
  std::filesystem::path in, out;
  std::string format; ///< empty: by the ending of `out`
  std::string compress = "none", input_format;
  bool force = false;
};
CLI::App* add_copy_command(CLI::App& app, CopyArguments& arguments);
/// Copies one image byte for byte.
int run_copy(const CopyArguments& arguments, Console& console, const StopToken& stop);

struct InfoArguments {
  std::filesystem::path image;
  std::string input_format;
};
CLI::App* add_info_command(CLI::App& app, InfoArguments& arguments);
/// Prints what an image is.
int run_info(const InfoArguments& arguments, Console& console);

} // namespace kvmport
