// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/clone.h"

#include "base/file.h"
#include "libconvert/clone/clone_job.h"
#include "libconvert/clone/clone_name.h"
#include "libconvert/clone/clone_proof.h"
#include "libconvert/clone/clone_state.h"
#include "libconvert/copy/journal.h"
#include "libconvert/host/connection.h"
#include "libconvert/machine/xml_util.h"
#include "libconvert/target/target.h"

#include <algorithm>
#include <atomic>
#include <fcntl.h>
#include <fmt/format.h>
#include <functional>
#include <mutex>
#include <set>
#include <sys/file.h>
#include <sys/stat.h>
#include <thread>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

/// Names and addresses are given out for a directory as a whole, so two runs must not work in one.
UniqueFd lock_directory(const fs::path& directory) {
  UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd)
    throw system_error(errno, "can't open " + directory.string());
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0)
    throw Error("OUTPUT_BUSY", "another kvm-clone works in " + directory.string(), {}, "wait for it, or end it");
  return fd;
}

/// Everything that, if it changes, makes what an earlier run left useless.
std::string run_id(const CloneSource& source, const CloneOptions& options) {
  std::string id = fmt::format("kvm-clone-1 mode={} rules={} seed={} keep={}{}{} uuids={}\n",
                               static_cast<int>(options.mode), options.rules, options.mac_seed.value_or(""),
                               options.keep_hostname, options.keep_hostdev, options.keep_serials, options.new_uuids);
  for (const auto& image : source.source.images)
    id += image_identity(*image) + "\n";
  id += source.xml;
  // A description may hold passwords, and this text stays in files.
  const Digest digest = digest_of(as_bytes(id));
  return fmt::format("{:016x}{:016x}", digest.high, digest.low);
}

/// Error FILE_EXISTS when a file of the source, or of what it is based on, would be replaced: --force does not mean it.
void keep_source(const CloneSource& source, const fs::path& output, const std::vector<std::string>& names) {
  std::vector<fs::path> files;
  for (const auto& image : source.source.images)
    for (const fs::path& file : image->info().files)
      files.push_back(file);
  files.push_back(source.source.machine.nvram);
  for (const std::string& name : names)
    for (const fs::path& file : files) {
      std::error_code none;
      if (!file.empty() && fs::equivalent(output / name, file, none))
        throw Error("FILE_EXISTS", (output / name).string() + " belongs to the source", {},
                    "give another --name, or another directory with -o");
    }
}

class Cloning {
 public:
  Cloning(const CloneOptions& options, const std::vector<CloneRequest>& requests, EventSink& sink,
          const StopToken& stop)
      : options_(options), requests_(requests), sink_(sink), stop_(stop) {}
  CloneResult run();

 private:
  void check_requests();
  void open();
  void choose_output();
  void plan();
  using JobWork = std::function<void(CloneJob&, GuestSeat&)>;
  void work(const JobWork& what);
  void one(CloneJob& job, const std::function<void(CloneJob&)>& what);
  void make_all();
  void prove_all();
  void publish(CloneJob& job);
  void finish_publication(const CloneJob& job, const Publication& publication);
  bool wants_proof(const CloneJob& job) const;
  void protect_bases();
  CloneResult result();

  const CloneOptions& options_;
  std::vector<CloneRequest> requests_;
  EventSink& sink_;
  const StopToken& stop_;
  UniqueFd lock_;
  std::unique_ptr<LibvirtConnection> connection_;
  CloneSource source_;
  std::unique_ptr<CloneRunState> state_;
  std::unique_ptr<CloneRun> run_;
  std::unique_ptr<SourceGuard> guard_;
  std::vector<std::unique_ptr<CloneJob>> jobs_; ///< one per request
  std::vector<std::string> notes_;
  std::mutex publishing_;
};

/// Clones without a name get the next ones after the source's.
void Cloning::check_requests() {
  TakenIdentities taken = source_.taken;
  for (CloneRequest& request : requests_) {
    if (request.name.empty())
      request.name = next_clone_name(source_.name, taken);
    check_name(request.name);
    taken.add(Identity::name, request.name);
  }
  std::set<std::string> names;
  for (const CloneRequest& request : requests_)
    if (!names.insert(request.name).second)
      throw Error("NAME_IN_USE", "two clones would be called " + request.name);
  std::set<IpAddress> addresses;
  for (const CloneRequest& request : requests_)
    for (const IpNetwork& network : request.address.addresses)
      if (!addresses.insert(network.address).second)
        throw Error("ADDRESS_IN_USE", "two clones would have the address " + network.address.text());
}

void Cloning::open() {
  sink_.stage("open", "opening the source");
  CloneNeighbours neighbours{options_.output_directory, {}};
  if (options_.force)
    for (const CloneRequest& request : requests_)
      neighbours.replaced.push_back(request.name + ".xml");
  if (!options_.connection.empty())
    connection_ = std::make_unique<LibvirtConnection>(options_.connection);
  source_ = connection_ ? open_clone_source(*connection_, options_.domain, options_.source, neighbours, sink_)
                        : open_clone_source(options_.sources, options_.source, neighbours, sink_);
}

void Cloning::choose_output() {
  fs::path output = options_.output_directory;
  if (output.empty())
    output = fs::absolute(source_.source.machine.disks.front().path).parent_path();
  output = fs::absolute(output).lexically_normal();
  if (!output.has_filename())
    output = output.parent_path();
  std::string seed = options_.mac_seed.value_or("");
  const std::string id = run_id(source_, options_);
  if (!options_.dry_run) {
    if (fs::create_directories(output)) // disks are for their owner alone, but their hypervisor must get at them
      fs::permissions(output, fs::perms(0755));
    lock_ = lock_directory(output);
    if (requests_.size() > 1) {
      state_ = std::make_unique<CloneRunState>(output / (safe_name(source_.name) + ".clones.sqlite"), id);
      if (seed.empty())
        seed = state_->seed();
    }
  }
  RuleSelection rules = select_rules(options_.rules);
  if (std::ranges::any_of(requests_, [](const CloneRequest& request) { return !request.address.empty(); }) &&
      std::ranges::none_of(rules, [](const IdentityRule* rule) { return rule->name == "static-address"; }))
    throw Error("RULE_NEEDED", "an address is written into the guest by the rule static-address, which is left out", {},
                "give --rules with static-address, or no address");
  run_ = std::make_unique<CloneRun>(CloneRun{options_, source_, output, id, seed, std::move(rules), sink_, stop_});
}

/// Descriptions one after the other, so that no two take one address; what an earlier run has done stays.
void Cloning::plan() {
  for (const CloneRequest& request : requests_) {
    auto job = std::make_unique<CloneJob>(*run_, request);
    const auto names = job->file_names();
    keep_source(source_, run_->output, names);
    const auto there = [&](const std::string& name) { return fs::exists(run_->output / name); };
    const auto remember = [&](const Publication& publication) { finish_publication(*job, publication); };
    if (!options_.dry_run &&
        (job->roll_forward(remember) || (state_ && state_->done(job->key()) && std::ranges::all_of(names, there)))) {
      job->outcome().state = CloneOutcome::State::before;
      if (const fs::path xml = run_->output / (request.name + ".xml"); fs::exists(xml))
        source_.taken.add_domain(read_file(xml, max_description), xml.string());
    } else if (const auto one = std::ranges::find_if(names, there); one != names.end() && !options_.force) {
      throw Error("FILE_EXISTS", (run_->output / *one).string() + " exists already", {},
                  "name another directory, give another --name, or use --force");
    }
    jobs_.push_back(std::move(job));
  }
  for (const auto& job : jobs_) {
    const CloneOutcome& outcome = job->outcome();
    if (outcome.state == CloneOutcome::State::before)
      continue;
    job->plan(source_.taken, state_ ? state_->uuid(job->key()) : std::nullopt);
    if (state_ && outcome.description)
      state_->remember_uuid(job->key(), outcome.description->uuid);
  }
}

/// What follows once a clone's files have their names; may be done twice.
void Cloning::finish_publication(const CloneJob& job, const Publication& publication) {
  for (const auto& [name, text] : publication.texts)
    if (connection_ && name.ends_with(".xml"))
      connection_->define(text);
  if (state_)
    state_->remember_done(job.key());
  protect_bases();
}

void Cloning::one(CloneJob& job, const std::function<void(CloneJob&)>& what) {
  CloneOutcome& outcome = job.outcome();
  try {
    what(job);
  } catch (const Error& error) {
    outcome.error = error;
  } catch (const std::exception& error) {
    outcome.error = Error("IO_ERROR", error.what());
  }
  if (!outcome.error)
    return;
  const bool stopped = outcome.error->code() == "INTERRUPTED";
  outcome.state = stopped ? CloneOutcome::State::stopped : CloneOutcome::State::failed;
  if (options_.dry_run)
    return;
  try {
    job.abandon(stopped || outcome.error->code() == "IO_ERROR");
    if (state_ && !stopped)
      state_->remember_failed(job.key(), outcome.error->what());
  } catch (const std::exception& error) { // what matters is why the clone failed
    outcome.notes.push_back(error.what());
  }
}

/// Each thread has a seat of its own: one appliance, when there must be one, serves all its clones.
void Cloning::work(const JobWork& what) {
  std::atomic<std::size_t> next{0};
  std::atomic<std::size_t> finished{0};
  const auto worker = [&] {
    GuestSeat seat(source_.source.machine, borrowed(source_.source.images), options_, sink_, stop_);
    for (std::size_t i = next++; i < jobs_.size(); i = next++) {
      if (jobs_[i]->outcome().state != CloneOutcome::State::before && !stop_.requested())
        one(*jobs_[i], [&](CloneJob& job) { what(job, seat); });
      if (jobs_.size() > 1)
        sink_.progress("clones", ++finished, jobs_.size());
    }
  };
  const std::size_t workers =
      options_.workers != 0 ? options_.workers : std::max(1U, std::thread::hardware_concurrency());
  std::vector<std::jthread> threads;
  for (std::size_t i = 1; i < std::min(workers, jobs_.size()); i++)
    threads.emplace_back(worker);
  worker();
}

bool Cloning::wants_proof(const CloneJob& job) const {
  if (options_.boot || options_.new_uuids)
    return true;
  const auto at = std::ranges::find_if(jobs_, [&](const auto& one) { return one.get() == &job; }) - jobs_.begin();
  return static_cast<std::size_t>(at) < options_.boot_together;
}

void Cloning::publish(CloneJob& job) {
  guard_->check();
  const std::lock_guard lock(publishing_);
  job.publish([&](const Publication& publication) { finish_publication(job, publication); });
}

void Cloning::make_all() {
  work([this](CloneJob& job, GuestSeat& seat) {
    job.make(seat);
    job.outcome().state = CloneOutcome::State::made;
    if (!wants_proof(job))
      publish(job);
  });
}

void Cloning::prove_all() {
  std::vector<CloneJob*> wanted;
  for (const auto& job : jobs_)
    if (wants_proof(*job) && job->outcome().state == CloneOutcome::State::made)
      wanted.push_back(job.get());
  std::vector<CloneJob*> together(wanted.begin(), wanted.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(
                                                                       wanted.size(), options_.boot_together)));
  if (!together.empty())
    prove_clones(*run_, together);
  for (std::size_t i = together.size(); i < wanted.size() && !stop_.requested(); i++)
    prove_clones(*run_, {wanted[i]});
  for (CloneJob* job : wanted)
    one(*job, [this](CloneJob& proven) {
      const CloneOutcome& outcome = proven.outcome();
      if (outcome.error)
        throw Error(*outcome.error);
      if (options_.new_uuids && outcome.verdict && !outcome.verdict->proven)
        throw Error("NOT_PROVEN", "with new UUIDs " + outcome.name + " does not boot: it was not kept",
                    outcome.verdict->diagnosis ? outcome.verdict->diagnosis->code : "", "clone it without --new-uuids");
      stop_.check();
      publish(proven);
    });
}

/// What a linked clone has not changed is read from its base: nobody may write that any more.
void Cloning::protect_bases() {
  if (options_.mode != CloneMode::linked)
    return;
  for (std::size_t i = 0; i < source_.disks.size(); i++) {
    const fs::path& base = source_.source.machine.disks[i].path;
    struct stat st {};
    if (source_.disks[i].shared || ::stat(base.c_str(), &st) != 0 || !S_ISREG(st.st_mode) || (st.st_mode & 0222) == 0)
      continue;
    const bool done = ::chmod(base.c_str(), st.st_mode & 07555) == 0;
    const std::string note = base.string() + " is the base of linked clones and " + (done ? "was" : "could not be") +
                             " made read-only: its own machine must not be started any more";
    if (std::ranges::find(notes_, note) == notes_.end())
      notes_.push_back(note);
  }
}

CloneResult Cloning::result() {
  CloneResult all;
  all.source = source_.name;
  all.notes = source_.notes;
  all.notes.insert(all.notes.end(), notes_.begin(), notes_.end());
  for (const auto& job : jobs_)
    all.clones.push_back(std::move(job->outcome()));
  if (std::ranges::any_of(all.clones, [](const CloneOutcome& clone) { return !clone.identity.empty(); }))
    try {
      all.shared = shared_after_boot(source_identity(*run_), all.clones);
    } catch (const Error& error) { // the clones are done
      all.shared = shared_after_boot({}, all.clones);
      all.notes.push_back(std::string("the source's own identity could not be read: ") + error.what());
    }
  return all;
}

CloneResult Cloning::run() {
  open();
  check_requests();
  choose_output();
  plan();
  if (options_.dry_run) {
    work([](CloneJob& job, GuestSeat& seat) {
      job.plan_guest(seat);
      job.outcome().state = CloneOutcome::State::planned;
    });
    return result();
  }
  guard_ = std::make_unique<SourceGuard>(source_.source);
  make_all();
  prove_all();
  return result();
}

} // namespace

CloneResult clone_guest(const CloneOptions& options, const std::vector<CloneRequest>& requests, EventSink& sink,
                        const StopToken& stop) {
  return Cloning(options, requests, sink, stop).run();
}

} // namespace kvmport
