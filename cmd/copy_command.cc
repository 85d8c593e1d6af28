// SPDX-License-Identifier: Apache-2.0
#include "cmd/commands.h"
#include "libconvert/copy/copy.h"

#include <fmt/format.h>
#include <sys/stat.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

constexpr const char* examples = R"(
Examples:
  kvm-v2v copy disk.vmdk disk.qcow2
  kvm-v2v copy disk.vhdx disk.qcow2 --compress zstd
  kvm-v2v copy /dev/vg0/web01 web01.img --format raw
)";

std::string output_format(const CopyArguments& arguments) {
  if (!arguments.format.empty())
    return arguments.format;
  const std::string ending = arguments.out.extension().string();
  return ending == ".raw" || ending == ".img" ? "raw" : "qcow2";
}

CreateOptions create_options(const CopyArguments& arguments, std::uint64_t size) {
  CreateOptions create;
  create.format = output_format(arguments);
  create.compression = arguments.compress == "zlib"   ? Compression::zlib
                       : arguments.compress == "zstd" ? Compression::zstd
                                                      : Compression::none;
  if (create.format == "raw" && create.compression != Compression::none)
    throw Error("USAGE", "a raw disk can't be compressed", {}, "use --format qcow2, or leave --compress out");
  create.size = size;
  return create;
}

/// The output, or what stands beside it while it grows, must not be a file that is read.
void refuse_source_as_output(const Image& image, const fs::path& out) {
  for (const char* suffix : {"", ".partial", ".partial.journal"}) {
    fs::path path = out;
    path += suffix;
    std::error_code ignored;
    for (const auto& file : image.info().files)
      if (fs::equivalent(path, file, ignored))
        throw Error("OUTPUT_IS_SOURCE", path.string() + " is a file of the source", {},
                    "the source is never written: choose another output");
  }
}

void refuse_existing(const fs::path& out, bool force) {
  std::error_code ignored;
  const auto status = fs::symlink_status(out, ignored);
  if (!fs::exists(status))
    return;
  if (!force)
    throw Error("FILE_EXISTS", out.string() + " exists already", {}, "remove it, or ask for --force");
  if (!fs::is_regular_file(status))
    throw Error("FILE_EXISTS", out.string() + " is not a regular file and can't be replaced", {},
                "choose another output");
}

void check_room(const Image& image, const fs::path& out, const CreateOptions& create) {
  struct stat st {};
  const fs::path partial = out.string() + ".partial";
  const std::uint64_t there = ::stat(partial.c_str(), &st) == 0 ? static_cast<std::uint64_t>(st.st_blocks) * 512 : 0;
  const std::uint64_t needed = estimate_size(image, {}, create);
  check_space(out.parent_path(), needed - std::min(needed, there));
}

/// Error SOURCE_CHANGED unless the files of the image are as they were. Block devices don't tell.
void check_unchanged(const Image& image, const std::string& identity, const fs::path& in) {
  for (const auto& file : image.info().files)
    if (fs::is_block_file(file))
      return;
  if (image_identity(image) != identity)
    throw Error("SOURCE_CHANGED", in.string() + " was changed while it was copied", {},
                "stop what writes it, then copy again");
}

/// After these the same command goes on with what was copied; after others it would fail again.
bool worth_keeping(const Error& error) {
  for (const char* code : {"INTERRUPTED", "IO_ERROR", "DISK_FULL", "FILE_EXISTS"})
    if (error.code() == code)
      return true;
  return false;
}

CopyStats copy_image(const Image& image, const CopyArguments& arguments, const CreateOptions& create, Console& console,
                     const StopToken& stop) {
  const std::string identity = image_identity(image);
  PartialDisk disk(arguments.out, create, identity);
  try {
    const CopyStats stats = disk.copy(image, {}, console, stop);
    disk.finish();
    check_unchanged(image, identity, arguments.in);
    disk.publish(arguments.force);
    return stats;
  } catch (const Error& error) {
    if (!worth_keeping(error))
      disk.discard();
    throw;
  }
}

} // namespace

CLI::App* add_copy_command(CLI::App& app, CopyArguments& arguments) {
  CLI::App* command = app.add_subcommand("copy", "Copy one disk image byte for byte into another format");
  command->add_option("IN", arguments.in, "Disk image of any format, or a block device")->required();
  command->add_option("OUT", arguments.out, "File to make")->required();
  command
      ->add_option("--format", arguments.format,
                   "Format of OUT (default: raw when it ends in .raw or .img, else qcow2)")
      ->check(CLI::IsMember({"raw", "qcow2"}));
  command->add_option("--compress", arguments.compress, "Compress the clusters of a qcow2")
      ->check(CLI::IsMember({"none", "zlib", "zstd"}))
      ->capture_default_str();
  command->add_option("--input-format", arguments.input_format, "Take IN as this format instead of probing");
  command->add_flag("--force", arguments.force, "Replace OUT when it exists");
  command->footer(examples);
  return command;
}

int run_copy(const CopyArguments& arguments, Console& console, const StopToken& stop) {
  (void)create_options(arguments, 0); // a wrong command line is told first
  const auto start = std::chrono::steady_clock::now();
  OpenOptions open;
  open.format = arguments.input_format;
  const auto image = open_image(arguments.in, open);
  const CreateOptions create = create_options(arguments, image->size());
  refuse_source_as_output(*image, arguments.out);
  refuse_existing(arguments.out, arguments.force);
  check_room(*image, arguments.out, create);
  const ImageInfo info = image->info();
  for (const auto& note : info.notes)
    console.message(EventSink::Level::info, "", arguments.in.string() + ": " + note);
  console.stage("copy", fmt::format("copying {} ({}{}, {}) to {} ({})", arguments.in.string(), info.format,
                                    info.variant.empty() ? "" : " " + info.variant, human_size(image->size()),
                                    arguments.out.string(), create.format));
  const CopyStats stats = copy_image(*image, arguments, create, console, stop);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::string text = fmt::format("{}: {} of data", arguments.out.string(), human_size(stats.data));
  if (stats.reused != 0)
    text += fmt::format(", {} taken over from an earlier run", human_size(stats.reused));
  console.result(text + fmt::format(", in {:.1f} s\n", seconds), nlohmann::json{{"output", arguments.out.string()},
                                                                                {"format", create.format},
                                                                                {"virtual_size", image->size()},
                                                                                {"copied_bytes", stats.data},
                                                                                {"zero_bytes", stats.zero},
                                                                                {"reused_bytes", stats.reused},
                                                                                {"seconds", seconds}});
  return exit_done;
}

} // namespace kvmport
