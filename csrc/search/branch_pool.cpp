#include "search/branch_pool.h"

#include <algorithm>

namespace toolprm {

Branch& BranchPool::add_root() {
  branches_.push_back(std::make_unique<Branch>());
  cache_.share(branches_[0]->slot);
  beams_ = {0};
  return *branches_[0];
}

int32_t BranchPool::fork(int32_t parent) {
  const int32_t id = size();
  branches_.push_back(std::make_unique<Branch>(*branches_[parent]));
  cache_.share(branches_[id]->slot);
  branches_[id]->trace_id = trace_.next_id();
  round_.push_back(id);
  return id;
}

void BranchPool::remove(int32_t id) {
  cache_.release(branches_[id]->slot);
  branches_[id] = nullptr;
}

void BranchPool::drop(int32_t id, std::string_view fate) {
  trace_.add(*branches_[id], log_, rounds_, fate);
  remove(id);
}

void BranchPool::note_kept(int32_t id) {
  Branch& branch = *branches_[id];
  trace_.add(branch, log_, rounds_, "kept");
  branch.trace_parent = branch.trace_id;
}

void BranchPool::merge(int32_t id, int32_t into) {
  const Branch& better = *branches_[into];
  branches_[into]->votes += branches_[id]->votes;
  trace_.add(*branches_[id], log_, rounds_, "merged",
             better.carried() ? better.trace_parent : better.trace_id);
  remove(id);
}

void BranchPool::begin_round(std::vector<int32_t> beams) {
  ++rounds_;
  beams_ = std::move(beams);
  round_ = beams_;
  before_.clear();
  for (size_t rank = 0; rank < beams_.size(); ++rank) {
    Branch& beam = *branches_[beams_[rank]];
    before_.push_back(beam);
    before_.back().beam = static_cast<int32_t>(rank);
    beam.beam = static_cast<int32_t>(rank);
    beam.beam_step = beam.step;
    beam.beam_text = static_cast<uint32_t>(beam.text.size());
    beam.candidate = beam.ended();
    beam.trace_id = trace_.next_id();
    if (!beam.candidate) {
      beam.judged = beam.score = 0;  // what continues it has none before its own rewards
      beam.slot.evictions = 0;
    }
  }
  trace_.begin_round(beams_.size());
}

std::vector<int32_t> BranchPool::round() const {
  std::vector<int32_t> living;
  for (int32_t id : round_) {
    if (alive(id)) living.push_back(id);
  }
  return living;
}

void BranchPool::move_to_end(int32_t id) {
  round_.erase(std::find(round_.begin(), round_.end(), id));
  round_.push_back(id);
}

void BranchPool::remove_dead() {
  round_.erase(std::remove_if(round_.begin(), round_.end(), [&](int32_t id) { return !alive(id); }),
               round_.end());
}

}  // namespace toolprm
