// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/clone_job.h"

#include "base/copy_file.h"
#include "base/file.h"
#include "libconvert/boot_machine.h"
#include "libconvert/machine/text.h"
#include "libconvert/target/target.h"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

constexpr std::uint64_t overlay_cap = 4ULL << 30;
/// Where libvirt keeps the state of emulated TPMs.
constexpr const char* swtpm_directory = "/var/lib/libvirt/swtpm";

/// A directory (without what is in it) or file that belongs to whom the other belongs: swtpm runs as a user of its own.
void copy_with_owner(const fs::path& from, const fs::path& to) {
  struct stat st {};
  if (::lstat(from.c_str(), &st) != 0)
    throw system_error(errno, "can't read " + from.string());
  if (S_ISDIR(st.st_mode))
    fs::create_directory(to);
  else if (S_ISREG(st.st_mode))
    copy_file_durably(from, to);
  else
    return; // a socket or lock of a run
  if (::lchown(to.c_str(), st.st_uid, st.st_gid) != 0 || ::chmod(to.c_str(), st.st_mode & 07777) != 0)
    throw system_error(errno, "can't set the owner of " + to.string());
}

/// Addresses of cards before and after, for the guest.
std::vector<std::pair<std::string, std::string>> mac_changes(const DescriptionResult& description) {
  std::vector<std::pair<std::string, std::string>> macs;
  for (const DescriptionChange& change : description.changes)
    if (change.rule == "mac")
      macs.emplace_back(change.before, change.after);
  return macs;
}

} // namespace

CloneJob::CloneJob(const CloneRun& run, CloneRequest request) : run_(run), request_(std::move(request)) {
  outcome_.name = request_.name;
  if (!run.options.keep_hostname)
    outcome_.hostname = request_.hostname.empty() ? request_.name : request_.hostname;
  for (std::size_t i = 0; i < run.source.disks.size(); i++) {
    const CloneSource::Disk& disk = run.source.disks[i];
    if (disk.shared) {
      disks_.push_back(nullptr);
      names_.emplace_back();
      continue;
    }
    const Image& image = *run.source.source.images[i];
    auto made = std::make_unique<CloneDisk>(
        image, run.source.source.machine.disks[i],
        run.output / (request_.name + (run.source.disks.size() > 1 ? "-" + disk.target : "")), run.options.mode);
    names_.push_back(made->target().filename().string());
    outcome_.notes.insert(outcome_.notes.end(), made->notes().begin(), made->notes().end());
    disks_.push_back(std::move(made));
  }
}

CloneJob::~CloneJob() = default;

std::vector<std::string> CloneJob::file_names() const {
  std::vector<std::string> names;
  for (const std::string& name : names_)
    if (!name.empty())
      names.push_back(name);
  if (!run_.source.xml.empty())
    names.push_back(file_name(".xml"));
  if (!run_.source.source.machine.nvram.empty())
    names.push_back(file_name("_VARS.fd"));
  names.push_back(file_name(".report.json"));
  return names;
}

void CloneJob::plan(TakenIdentities& taken, const std::optional<std::string>& uuid) {
  if (run_.source.xml.empty())
    return;
  DescriptionRequest wanted;
  wanted.name = request_.name;
  wanted.uuid = uuid;
  wanted.macs = request_.macs;
  if (!run_.seed.empty())
    wanted.mac_seed = run_.seed;
  wanted.keep_hostdev = run_.options.keep_hostdev;
  wanted.keep_serials = run_.options.keep_serials;
  wanted.nvram_path = (run_.output / file_name("_VARS.fd")).string();
  for (std::size_t i = 0; i < disks_.size(); i++)
    if (disks_[i]) {
      const CloneSource::Disk& disk = run_.source.disks[i];
      wanted.disks[disk.target.empty() ? disk.written : disk.target] = {(run_.output / names_[i]).string(),
                                                                        disks_[i]->format(), false};
    }
  outcome_.description = clone_description(run_.source.xml, run_.source.file, wanted, taken);
}

CloneIdentity CloneJob::identity() const {
  CloneIdentity identity;
  identity.hostname = outcome_.hostname;
  identity.address = request_.address;
  if (outcome_.description) {
    identity.macs = mac_changes(*outcome_.description);
    identity.seed = outcome_.description->uuid;
    std::erase_if(identity.macs, [](const auto& mac) { return mac.first.empty(); });
  }
  return identity;
}

void CloneJob::plan_guest(GuestSeat& seat) {
  if (!run_.rules.empty())
    seat.look([&](GuestAccess& guest) {
      outcome_.plan = plan_identity(guest.info(), guest.filesystem(), identity(), run_.rules);
    });
}

void CloneJob::make(GuestSeat& seat) {
  remove_logs();
  run_.sink.stage("clone", "cloning " + run_.source.name + " to " + request_.name);
  for (const auto& disk : disks_)
    if (disk)
      disk->make(run_.sink, run_.stop);
  std::optional<DiskLayers> layers;
  if (!run_.rules.empty() || run_.options.new_uuids) {
    layers.emplace(borrowed(run_.source.source.images), run_.output, overlay_cap);
    if (!run_.rules.empty())
      seat.open(*layers, [&](GuestAccess& guest) {
        outcome_.plan = plan_identity(guest.info(), guest.filesystem(), identity(), run_.rules);
        apply_plan(*outcome_.plan, guest.filesystem());
      });
    run_.stop.check();
    if (run_.options.new_uuids) {
      seat.close(); // an appliance of its own does it
      renew(layers->all());
    }
    for (std::size_t i = 0; i < disks_.size(); i++)
      if (!disks_[i] && !layers->all()[i]->dirty().empty())
        throw Error("CLONE_UNSUPPORTED", "a disk that the clone shares with its source would have to be changed",
                    "disk " + run_.source.disks[i].target, "choose other --rules, or make the disk its own");
  }
  for (std::size_t i = 0; i < disks_.size(); i++)
    if (disks_[i]) {
      disks_[i]->complete(layers ? layers->all()[i] : nullptr, run_.sink, run_.stop);
      outcome_.disks.push_back(names_[i] + ": " + to_string(disks_[i]->way()));
    }
  copy_nvram();
  copy_tpm();
}

void CloneJob::renew(const std::vector<Overlay*>& overlays) {
  run_.sink.stage("clone", "giving the disks of " + request_.name + " new UUIDs");
  outcome_.uuids = renew_uuids(run_.source.source.machine, overlays, run_.options.guest,
                               outcome_.description ? outcome_.description->uuid : "", run_.sink, run_.stop);
  outcome_.notes.insert(outcome_.notes.end(), outcome_.uuids->plan.warnings.begin(),
                        outcome_.uuids->plan.warnings.end());
}

void CloneJob::copy_nvram() {
  const fs::path& from = run_.source.source.machine.nvram;
  if (from.empty())
    return;
  const fs::path to = run_.output / file_name("_VARS.fd.partial");
  copy_file_durably(from, to);
  if (outcome_.uuids)
    renew_in_nvram(to, outcome_.uuids->changes);
}

/// libvirt finds the state by the clone's UUID. It can't wait for the other files' names; nobody else uses this UUID.
void CloneJob::copy_tpm() {
  if (!outcome_.description || !outcome_.description->tpm)
    return;
  const TpmState& tpm = *outcome_.description->tpm;
  const fs::path from = tpm.from_path.empty() ? fs::path(swtpm_directory) / tpm.from_uuid : fs::path(tpm.from_path);
  const fs::path to = tpm.to_path.empty() ? fs::path(swtpm_directory) / tpm.to_uuid : fs::path(tpm.to_path);
  std::error_code error;
  if (!fs::exists(from, error)) {
    outcome_.notes.push_back("the TPM has no state at " + from.string() +
                             ": the clone starts with an empty one, and has no key that was sealed in it");
    return;
  }
  if (fs::exists(to, error))
    throw Error("FILE_EXISTS", to.string() + " exists already: the clone's TPM would have its state there");
  tpm_ = to;
  copy_with_owner(from, to);
  for (const auto& entry : fs::recursive_directory_iterator(from))
    copy_with_owner(entry.path(), to / entry.path().lexically_relative(from));
  outcome_.notes.push_back("the clone's TPM has the keys of its source's: what is sealed in it opens on both");
}

CloneJob::Bootable CloneJob::bootable() const {
  Bootable b;
  b.machine = run_.source.source.machine;
  b.machine.name = request_.name;
  if (!b.machine.nvram.empty())
    b.machine.nvram = run_.output / file_name("_VARS.fd.partial");
  if (outcome_.description) {
    const auto macs = mac_changes(*outcome_.description);
    for (std::size_t i = 0; i < std::min(macs.size(), b.machine.nics.size()); i++)
      b.machine.nics[i].mac = macs[i].second;
  }
  for (std::size_t i = 0; i < disks_.size(); i++) {
    const MachineDisk& disk = run_.source.source.machine.disks[i];
    OpenOptions open = {
        .format = disks_[i] ? disks_[i]->format() : disk.format, .allowed_directories = {}, .window = {}};
    for (const fs::path& file : run_.source.source.images[i]->info().files)
      open.allowed_directories.push_back(fs::absolute(file).parent_path());
    b.images.push_back(open_image(disks_[i] ? disks_[i]->partial() : disk.path, open));
    b.overlays.push_back(std::make_unique<Overlay>(*b.images.back(), run_.output, proof_overlay_cap));
  }
  for (std::size_t i = 0; outcome_.uuids && i < disks_.size(); i++) {
    b.machine.disks.push_back(run_.source.source.machine.disks[i]);
    b.machine.disks.back().boot_order.reset();
    b.machine.disks.back().serial.clear();
    b.overlays.push_back(std::make_unique<Overlay>(*run_.source.source.images[i], run_.output, proof_overlay_cap));
  }
  return b;
}

std::string CloneJob::key() const {
  const std::string address = request_.address.text();
  return fmt::format("{} {} {}{}", request_.name, outcome_.hostname, fmt::join(request_.macs, " "),
                     address.empty() ? "" : " " + address);
}

std::string CloneJob::publication_id() const {
  return run_.id + " " + key();
}

bool CloneJob::roll_forward(const AfterNames& after) {
  outcome_.files = kvmport::roll_forward(run_.output, file_name(".report.json"), publication_id(), after);
  return !outcome_.files.empty();
}

void CloneJob::publish(const AfterNames& after) {
  Publication p;
  p.source_id = publication_id();
  p.directory = run_.output;
  for (std::size_t i = 0; i < disks_.size(); i++)
    if (disks_[i]) {
      p.renames.emplace_back(names_[i] + ".partial", names_[i]);
      for (const std::string& left : disks_[i]->leftovers())
        p.removes.push_back(left);
    }
  if (!run_.source.source.machine.nvram.empty())
    p.renames.emplace_back(file_name("_VARS.fd.partial"), file_name("_VARS.fd"));
  if (outcome_.description)
    p.texts.emplace_back(file_name(".xml"), outcome_.description->xml);
  for (const char* ending : {".serial.log", ".screenshot.png"})
    if (const std::string partial = file_name(ending) + ".partial"; fs::exists(run_.output / partial))
      p.renames.emplace_back(partial, file_name(ending));
  p.report_name = file_name(".report.json");
  outcome_.files = p.files();
  p.report = clone_report(run_, outcome_);
  tpm_.clear(); // the clone's own from now on
  kvmport::publish(p, run_.options.force, after);
  outcome_.state = CloneOutcome::State::done;
}

void CloneJob::abandon(bool keep) {
  if (!keep)
    for (const auto& disk : disks_)
      if (disk)
        disk->discard();
  std::error_code ignored;
  fs::remove(run_.output / file_name("_VARS.fd.partial"), ignored);
  if (!tpm_.empty())
    fs::remove_all(tpm_, ignored);
  remove_logs();
}

/// What the proof of an earlier run saw.
void CloneJob::remove_logs() const {
  std::error_code ignored;
  for (const char* ending : {".serial.log.partial", ".screenshot.png.partial"})
    fs::remove(run_.output / file_name(ending), ignored);
}

} // namespace kvmport
