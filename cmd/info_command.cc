// SPDX-License-Identifier: Apache-2.0
#include "cmd/commands.h"
#include "formats/image.h"

#include <fmt/format.h>

namespace kvmport {
namespace {

constexpr const char* examples = R"(
Examples:
  kvm-v2v info disk.vhdx
  kvm-v2v info disk.img --input-format raw --json
)";

std::string describe(const ImageInfo& info) {
  std::string text = fmt::format("format:        {}{}\n", info.format,
                                 info.variant.empty() ? std::string() : " (" + info.variant + ")");
  text += fmt::format("virtual size:  {} ({} bytes)\n", human_size(info.virtual_size), info.virtual_size);
  text += fmt::format("sector size:   {}\n", info.logical_sector);
  if (info.block_size != 0)
    text += fmt::format("block size:    {}\n", human_size(info.block_size));
  for (const auto& file : info.files)
    text += "file:          " + printable(file.string()) + "\n";
  for (const auto& [name, value] : info.details)
    text += fmt::format("{:<14} {}\n", printable(name) + ":", printable(value));
  for (const auto& note : info.notes)
    text += "note:          " + printable(note) + "\n";
  return text;
}

nlohmann::json to_json(const ImageInfo& info) {
  nlohmann::json object{{"format", info.format},
                        {"variant", info.variant},
                        {"virtual_size", info.virtual_size},
                        {"logical_sector", info.logical_sector},
                        {"block_size", info.block_size},
                        {"notes", info.notes},
                        {"details", info.details}};
  object["files"] = nlohmann::json::array();
  for (const auto& file : info.files)
    object["files"].push_back(file.string());
  return object;
}

} // namespace

CLI::App* add_info_command(CLI::App& app, InfoArguments& arguments) {
  CLI::App* command = app.add_subcommand("info", "Say what a disk image is");
  command->add_option("IMAGE", arguments.image, "Disk image of any format")->required();
  command->add_option("--input-format", arguments.input_format, "Take it as this format instead of probing");
  command->footer(examples);
  return command;
}

int run_info(const InfoArguments& arguments, Console& console) {
  OpenOptions options;
  options.format = arguments.input_format;
  const ImageInfo info = open_image(arguments.image, options)->info();
  console.result(describe(info), to_json(info));
  return exit_done;
}

} // namespace kvmport
