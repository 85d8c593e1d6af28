// SPDX-License-Identifier: Apache-2.0
#include "libconvert/pipeline.h"

#include "base/copy_file.h"
#include "base/process.h"
#include "kvmboot/probe.h"
#include "libconvert/guest/linux/network_cards.h"
#include "libconvert/machine/text.h"
#include "libconvert/publish.h"
#include "libconvert/report.h"
#include "libconvert/target/target.h"

#include <algorithm>
#include <exception>
#include <fmt/format.h>
#include <mutex>
#include <nlohmann/json.hpp>
#include <sys/resource.h>
#include <sys/stat.h>
#include <thread>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

constexpr std::uint64_t overlay_cap = 16ULL << 30;
constexpr std::uint64_t default_memory = 2ULL << 30;
constexpr std::uint64_t proof_memory_limit = 2ULL << 30;

double cpu_seconds() {
  double total = 0;
  for (int who : {RUSAGE_SELF, RUSAGE_CHILDREN}) {
    rusage usage{};
    ::getrusage(who, &usage);
    for (const timeval& t : {usage.ru_utime, usage.ru_stime})
      total += static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  }
  return total;
}

/// Adds the time of a scope to a stage of the report. Stages on two threads may end at the same time.
class StageTimer {
 public:
  StageTimer(Report& report, std::mutex& mutex, std::string stage)
      : report_(report), mutex_(mutex), stage_(std::move(stage)) {}
  StageTimer(const StageTimer&) = delete;
  StageTimer& operator=(const StageTimer&) = delete;
  ~StageTimer() {
    const std::lock_guard lock(mutex_);
    StageTime& time = report_.times[stage_];
    time.wall += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    time.cpu += cpu_seconds() - cpu_;
  }

 private:
  Report& report_;
  std::mutex& mutex_;
  std::string stage_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double cpu_ = cpu_seconds();
};

/// A token of our own that also follows the user's, so that one side of the work can stop the other.
class LinkedStop {
 public:
  explicit LinkedStop(const StopToken& user)
      : watcher_([this, &user](const std::stop_token& done) {
          while (!done.stop_requested()) {
            if (user.requested())
              token_.request();
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
          }
        }) {}
  StopToken& token() { return token_; }

 private:
  StopToken token_;
  std::jthread watcher_;
};

/// The guest's view of one disk: the source, the conversion's changes over it, the proof's instrumentation over those.
struct DiskLayers {
  std::unique_ptr<Overlay> conversion, instrument;
};

/// sda … sdz, sdaa …: how the output's disks are called, whatever they were called on the source.
std::string disk_suffix(std::size_t index) {
  return "sd" + disk_letters(static_cast<unsigned>(index));
}

/// Everything that, if it changes, makes a partial file of an earlier run useless.
std::string source_identity(const Source& source, const ConvertOptions& options) {
  std::string id =
      fmt::format("kvmport-1 format={} compression={}", options.format, static_cast<int>(options.compression));
  for (std::size_t i = 0; i < source.images.size(); i++) {
    id += fmt::format("\ndisk {} size={}", i, source.images[i]->size());
    for (const auto& file : source.images[i]->info().files) {
      struct stat st {};
      if (::stat(file.c_str(), &st) == 0)
        id += fmt::format("\nfile {} {} {} {}.{:09}", fs::absolute(file).string(), st.st_ino, st.st_size,
                          st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    }
  }
  return id;
}

/// One conversion from beginning to end: the state that its stages share.
class Conversion {
 public:
  Conversion(const ConvertOptions& options, EventSink& sink, const StopToken& stop)
      : options_(options), sink_(sink), stop_(stop) {}

  ConvertResult run();

 private:
  void open();
  bool complete_earlier_run();
  void refuse_existing_output() const;
  void plan_copy();
  void make_layers(const fs::path& overlay_directory);
  void convert_guest(const StopToken& stop);
  void copy_disks(const StopToken& stop);
  void copy_and_convert();
  void merge_and_finish();
  void prove();
  void publish_all();
  void discard_partials();
  void check_nvram();
  ConvertResult result() const;

  bool uefi() const {
    if (source_.machine.firmware != MachineFirmware::unknown)
      return source_.machine.firmware == MachineFirmware::uefi;
    return report_.guest && report_.guest->firmware == Firmware::uefi;
  }
  std::string disk_name(std::size_t i) const {
    return report_.name + "-" + disk_suffix(i) + "." + (options_.format == "raw" ? "img" : "qcow2");
  }
  std::string file_name(const char* ending) const { return report_.name + ending; }
  BootSpec boot_spec(const std::vector<std::unique_ptr<Overlay>>& overlays) const;
  TargetMachine target() const;

  const ConvertOptions& options_;
  EventSink& sink_;
  const StopToken& stop_;
  Report report_;
  std::mutex times_mutex_;
  Source source_;
  std::string source_id_;
  std::unique_ptr<TempDir> sockets_;
  std::vector<DiskLayers> layers_;
  std::vector<std::vector<Range>> skip_;
  std::vector<std::unique_ptr<PartialDisk>> partials_;
  std::vector<fs::path> published_;
};

void Conversion::open() {
  const StageTimer timer(report_, times_mutex_, "open");
  sink_.stage("open", "opening " + (options_.machine ? options_.machine->name : options_.sources.front().string()));
  source_ = options_.machine ? open_known_machine(*options_.machine, options_.source, sink_)
                             : open_source_machine(options_.sources, options_.source, sink_);
  name_source_disks(source_.machine);
  if (source_.images.empty())
    throw Error("DISK_MISSING", "the machine " + source_.machine.name + " has no hard disk");
  report_.name = safe_name(options_.name.empty() ? source_.machine.name : clean_utf8(options_.name));
  if (source_.machine.memory == 0) {
    source_.machine.memory = default_memory;
    report_.notes.push_back("the source does not tell the memory size: 2 GiB was chosen");
  }
  check_nvram();
  report_.machine = source_.machine;
  source_id_ = source_identity(source_, options_);
  sockets_ = std::make_unique<TempDir>();
}

/// A variable store is only of use to the firmware that it was made for: its size tells.
void Conversion::check_nvram() {
  fs::path& nvram = source_.machine.nvram;
  std::error_code error;
  if (nvram.empty() ||
      fs::file_size(nvram, error) == fs::file_size(firmware_files(source_.machine.secure_boot).variables, error))
    return;
  report_.notes.push_back("the UEFI variables " + nvram.string() +
                          " are not of this host's firmware: fresh ones are used");
  nvram.clear();
}

void Conversion::plan_copy() {
  const StageTimer timer(report_, times_mutex_, "plan-copy");
  std::uint64_t needed = 0;
  CreateOptions create;
  create.format = options_.format;
  create.compression = options_.compression;
  for (std::size_t i = 0; i < source_.images.size(); i++) {
    const Image& image = *source_.images[i];
    FreeMap map = find_free_blocks(image);
    for (const auto& note : map.notes)
      report_.notes.push_back(disk_suffix(i) + ": " + note);
    skip_.push_back(std::move(map.free));
    create.size = image.size();
    const std::uint64_t estimate = estimate_size(image, skip_.back(), create);
    // What an interrupted run left counts as space that is there.
    struct stat st {};
    const fs::path partial = options_.output_directory / (disk_name(i) + ".partial");
    const std::uint64_t there = ::stat(partial.c_str(), &st) == 0 ? static_cast<std::uint64_t>(st.st_blocks) * 512 : 0;
    needed += estimate - std::min(estimate, there);
  }
  check_space(options_.output_directory, needed);
}

void Conversion::make_layers(const fs::path& overlay_directory) {
  for (std::size_t i = 0; i < source_.images.size(); i++) {
    DiskLayers layers;
    layers.conversion = std::make_unique<Overlay>(*source_.images[i], overlay_directory, overlay_cap);
    layers.instrument = std::make_unique<Overlay>(*layers.conversion, overlay_directory, overlay_cap);
    layers_.push_back(std::move(layers));
  }
}

void Conversion::convert_guest(const StopToken& stop) {
  const StageTimer timer(report_, times_mutex_, "convert");
  std::vector<Overlay*> conversion, instrument;
  for (auto& layer : layers_) {
    conversion.push_back(layer.conversion.get());
    instrument.push_back(layer.instrument.get());
  }
  sink_.stage("inspect", "looking into the guest");
  auto access = open_guest(source_.machine, conversion, options_.guest, options_.access, sockets_->path(), sink_, stop);
  stop.check();
  GuestInfo guest = access->info();
  linux_guest::complete_network_cards(guest.machine, access->filesystem());
  sink_.stage("convert", "planning the changes for " + guest.pretty_name);
  Plan plan = make_plan(guest, access->filesystem(), linux_steps(options_.plan));
  for (const auto& warning : plan.warnings)
    sink_.message(EventSink::Level::warning, "", warning);
  if (!options_.dry_run) {
    sink_.stage("convert", fmt::format("applying {} changes", plan.changes.size()));
    apply_plan(plan, access->filesystem());
    stop.check();
    if (options_.boot && options_.instrument) {
      access->continue_on(instrument);
      apply_plan(make_plan(guest, access->filesystem(), instrument_steps()), access->filesystem());
    }
  }
  access->finish();
  report_.guest = std::move(guest);
  report_.plan = std::move(plan);
}

void Conversion::copy_disks(const StopToken& stop) {
  const StageTimer timer(report_, times_mutex_, "copy");
  auto digests = verify_digests(source_.machine, stop);
  CreateOptions create;
  create.format = options_.format;
  create.compression = options_.compression;
  for (std::size_t i = 0; i < source_.images.size(); i++) {
    const Image& image = *source_.images[i];
    create.size = image.size();
    sink_.stage("copy", fmt::format("copying disk {} of {}", i + 1, source_.images.size()));
    std::string id = source_id_;
    for (const auto& range : skip_[i])
      id += fmt::format("\nskip {}+{}", range.offset, range.length);
    partials_.push_back(std::make_unique<PartialDisk>(options_.output_directory / disk_name(i), create, id));
    CopyOptions copy;
    copy.skip = skip_[i];
    DiskReport disk;
    disk.source = source_.machine.disks[i].path.string();
    disk.file = disk_name(i);
    disk.format = options_.format;
    disk.virtual_size = image.size();
    disk.copy = partials_.back()->copy(image, copy, sink_, stop);
    report_.disks.push_back(std::move(disk));
  }
  digests();
}

void Conversion::copy_and_convert() {
  if (options_.disk_only) {
    copy_disks(stop_);
    return;
  }
  LinkedStop linked(stop_);
  std::exception_ptr guest_error, copy_error;
  bool guest_first = false;
  {
    std::jthread guest([&] {
      try {
        convert_guest(linked.token());
      } catch (...) {
        guest_error = std::current_exception();
        guest_first = !linked.token().requested();
        linked.token().request();
      }
    });
    try {
      copy_disks(linked.token());
    } catch (...) {
      copy_error = std::current_exception();
      linked.token().request();
    }
  }
  // The side that failed by itself tells why; the other was only told to stop.
  if (guest_error && (guest_first || !copy_error))
    std::rethrow_exception(guest_error);
  if (copy_error)
    std::rethrow_exception(copy_error);
  // Cards that got an address for the plan have it in the result as well.
  source_.machine.nics = report_.guest->machine.nics;
  source_.machine.notes = report_.guest->machine.notes;
  report_.machine = source_.machine;
}

void Conversion::merge_and_finish() {
  const StageTimer timer(report_, times_mutex_, "merge");
  sink_.stage("merge", "putting the changes over the copy");
  for (std::size_t i = 0; i < partials_.size(); i++) {
    for (const auto& extent : layers_[i].conversion->dirty())
      report_.disks[i].merged += extent.range.length;
    partials_[i]->merge(*layers_[i].conversion, sink_, stop_);
    partials_[i]->finish();
  }
}

BootSpec Conversion::boot_spec(const std::vector<std::unique_ptr<Overlay>>& overlays) const {
  const bool virtio_disk = !report_.plan || report_.plan->virtio_disk;
  const bool virtio_net = !report_.plan || report_.plan->virtio_net;
  BootSpec spec;
  spec.name = report_.name;
  spec.firmware = uefi() ? Firmware::uefi : Firmware::bios;
  spec.secure_boot = source_.machine.secure_boot;
  spec.nvram = source_.machine.nvram;
  spec.memory = std::clamp<std::uint64_t>(source_.machine.memory, 256ULL << 20, proof_memory_limit);
  spec.cpus = std::clamp(source_.machine.cpu.count(), 1U, std::max(1U, std::thread::hardware_concurrency()));
  for (std::size_t i = 0; i < overlays.size(); i++)
    spec.disks.push_back({overlays[i].get(), virtio_disk ? DiskBus::virtio_blk : DiskBus::sata,
                          source_.machine.disks[i].logical_sector, source_.machine.disks[i].serial});
  for (const auto& nic : source_.machine.nics)
    if (!nic.mac.empty())
      spec.nics.push_back({nic.mac, virtio_net ? "virtio" : "e1000e"});
  for (const auto& key : options_.guest.keys)
    spec.answers.push_back({"[Pp]assphrase|unlock disk", key.passphrase + "\n", 3});
  spec.timeout = options_.timeout;
  spec.screenshot = options_.output_directory / file_name(".screenshot.png.partial");
  return spec;
}

void Conversion::prove() {
  const StageTimer timer(report_, times_mutex_, "prove");
  sink_.stage("prove", "booting a throw-away overlay of the result");
  std::vector<std::unique_ptr<Image>> results;
  std::vector<std::unique_ptr<Overlay>> overlays;
  for (std::size_t i = 0; i < partials_.size(); i++) {
    OpenOptions open;
    open.format = options_.format;
    results.push_back(open_image(partials_[i]->partial_path(), open));
    overlays.push_back(std::make_unique<Overlay>(*results.back(), options_.output_directory, overlay_cap));
    import_changes(*layers_[i].instrument, *overlays.back());
  }
  auto engine = make_engine(options_.engine, sink_);
  report_.verdict = prove_boot(*engine, boot_spec(overlays), options_.until,
                               options_.output_directory / file_name(".serial.log.partial"), sink_, stop_);
  stop_.check();
}

TargetMachine Conversion::target() const {
  TargetMachine target;
  target.source = source_.machine;
  target.source.name = report_.name;
  target.uefi = uefi();
  target.secure_boot = source_.machine.secure_boot;
  target.virtio_disk = !report_.plan || report_.plan->virtio_disk;
  target.virtio_net = !report_.plan || report_.plan->virtio_net;
  const fs::path directory = fs::absolute(options_.output_directory).lexically_normal();
  for (std::size_t i = 0; i < source_.machine.disks.size(); i++) {
    const MachineDisk& disk = source_.machine.disks[i];
    target.disks.push_back({(directory / disk_name(i)).string(), options_.format, disk.logical_sector,
                            disk.physical_sector, disk.serial, disk.boot_order});
  }
  if (target.uefi)
    target.nvram_file = (directory / file_name("_VARS.fd")).string();
  return target;
}

void Conversion::publish_all() {
  const StageTimer timer(report_, times_mutex_, "publish");
  sink_.stage("publish", "giving the result its names");
  Publication publication;
  publication.source_id = source_id_;
  publication.directory = options_.output_directory;
  for (std::size_t i = 0; i < partials_.size(); i++) {
    publication.renames.emplace_back(disk_name(i) + ".partial", disk_name(i));
    publication.removes.push_back(disk_name(i) + ".partial.journal");
  }
  if (uefi() && !source_.machine.nvram.empty()) {
    copy_file_durably(source_.machine.nvram, options_.output_directory / file_name("_VARS.fd.partial"));
    publication.renames.emplace_back(file_name("_VARS.fd.partial"), file_name("_VARS.fd"));
  }
  for (const char* ending : {".serial.log", ".screenshot.png"})
    if (fs::exists(options_.output_directory / file_name((std::string(ending) + ".partial").c_str())))
      publication.renames.emplace_back(file_name((std::string(ending) + ".partial").c_str()), file_name(ending));
  const TargetMachine machine = target();
  publication.texts.emplace_back(file_name(".xml"), libvirt_xml(machine));
  publication.texts.emplace_back(file_name(".sh"), qemu_script(machine));
  publication.report_name = file_name(".report.json");
  publication.report = to_json(report_).dump(2) + "\n";
  publish(publication, options_.force);
  published_ = publication.files();
}

void Conversion::discard_partials() {
  for (auto& partial : partials_)
    partial->discard();
  std::error_code ignored;
  for (const char* ending : {".serial.log.partial", ".screenshot.png.partial"})
    fs::remove(options_.output_directory / file_name(ending), ignored);
}

bool Conversion::complete_earlier_run() {
  published_ = roll_forward(options_.output_directory, file_name(".report.json"), source_id_);
  if (published_.empty())
    return false;
  sink_.message(EventSink::Level::info, "",
                "an earlier run was stopped while it gave the result its names: completed now");
  const auto report = nlohmann::json::parse(read_file(published_.back(), 256U << 20));
  if (report.contains("boot")) {
    report_.verdict.emplace();
    report_.verdict->proven = report["boot"]["proven"].get<bool>();
    report_.verdict->asked = parse_milestone(report["boot"]["asked"].get<std::string>());
    report_.verdict->engine = report["boot"]["engine"].get<std::string>();
  }
  return true;
}

void Conversion::refuse_existing_output() const {
  std::vector<std::string> names{file_name(".report.json"), file_name(".xml"), file_name(".sh")};
  for (std::size_t i = 0; i < source_.images.size(); i++)
    names.push_back(disk_name(i));
  for (const auto& name : names)
    if (fs::exists(options_.output_directory / name))
      throw Error("FILE_EXISTS", (options_.output_directory / name).string() + " exists already", {},
                  "name another directory, give another --name, or use --force");
}

ConvertResult Conversion::result() const {
  ConvertResult result;
  result.plan = report_.plan;
  result.guest = report_.guest;
  result.verdict = report_.verdict;
  result.files = published_;
  result.times = report_.times;
  return result;
}

ConvertResult Conversion::run() {
  open();
  if (options_.dry_run) {
    make_layers(fs::temp_directory_path());
    if (!options_.disk_only)
      convert_guest(stop_);
    return result();
  }
  fs::create_directories(options_.output_directory);
  if (complete_earlier_run())
    return result();
  if (!options_.force)
    refuse_existing_output();
  const SourceGuard guard(source_);
  plan_copy();
  make_layers(options_.output_directory);
  try {
    {
      const StageTimer timer(report_, times_mutex_, "conversion");
      copy_and_convert();
      merge_and_finish();
    }
    guard.check();
    if (options_.boot)
      prove();
    else
      report_.not_proven_reason = "--no-boot was given";
  } catch (const Error& error) {
    // What can be gone on with stays; after a refusal nothing stays.
    if (error.code() != "INTERRUPTED" && error.code() != "IO_ERROR")
      discard_partials();
    throw;
  }
  publish_all();
  return result();
}

} // namespace

ConvertResult convert_machine(const ConvertOptions& options, EventSink& sink, const StopToken& stop) {
  return Conversion(options, sink, stop).run();
}

} // namespace kvmport
