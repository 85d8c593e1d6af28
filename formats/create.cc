// SPDX-License-Identifier: Apache-2.0
#include "formats/qcow2_writer.h"
#include "formats/raw_writer.h"

namespace kvmport {

std::unique_ptr<ImageWriter> create_image(const std::filesystem::path& path, const CreateOptions& options) {
  if (options.format == "raw") {
    if (options.compression != Compression::none)
      throw Error("FORMAT_UNSUPPORTED", "a raw image can't be compressed", {}, "choose qcow2");
    return std::make_unique<RawWriter>(path, options);
  }
  if (options.format == "qcow2")
    return std::make_unique<Qcow2Writer>(path, options);
  throw Error("FORMAT_UNSUPPORTED", "can't write the format \"" + options.format + "\"", {}, "choose raw or qcow2");
}

} // namespace kvmport
