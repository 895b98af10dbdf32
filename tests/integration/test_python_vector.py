# SPDX-License-Identifier: Apache-2.0
"""VectorEnv and Env of the Python package: Gymnasium's own checks, and the same trajectories as Gymnasium's own vectors have."""

import json
import threading
import time
import warnings

import envgate
import gymnasium
import numpy as np
import pytest
from conftest import SLOW, Gateway, builtin
from cut import Cut
from environments import config, workers
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from envgate.v1 import session_service_pb2 as pb

MODES = list(AutoresetMode)
REAL = {"cartpole": "CartPole-v1", "frozenlake": "FrozenLake-v1", "pendulum": "Pendulum-v1", "pong": "ALE/Pong-v5"}
# Which a schema does not tell: that whole numbers are not just any.
OBSERVED = {"frozenlake": spaces.Discrete(16)}


@pytest.fixture(scope="module")
def g(tmp_path_factory):
    """A gateway with built-in environments and real ones."""
    tmp = tmp_path_factory.mktemp("vector")
    with workers([*REAL, "reasoning"], tmp) as at:
        environments = {
            "builtin": builtin("cartpole", sessions_per_worker=64),
            "pixels": builtin("pixels", sessions_per_worker=64),
            "echo": builtin("echo", "--faults", sessions_per_worker=64, max_workers=4),
        }
        gateway = Gateway({"environments": config(at)["environments"] | environments}, "--threads", "2", tmp=tmp)
        yield gateway
        left = gateway.get("/v1/sessions").json().get("sessions", [])
        gateway.check_end()
        assert left == [], "a test left sessions"


def vector(g, environment, n, **options):
    if environment in OBSERVED:
        options.setdefault("observation_space", OBSERVED[environment])
    return envgate.VectorEnv(g.target, environment, n, **options)


ECHO = {
    "observation_space": spaces.Dict({"echoed_message": spaces.Text(100, min_length=0), "message_length": spaces.Discrete(1000)}),
    "action_space": spaces.Dict({"message": spaces.Text(100, min_length=0)}),
}


def same(a, b, what=""):
    """Observations, infos or any nest of them are equal, in types, too."""
    if isinstance(b, dict):
        assert isinstance(a, dict) and set(a) == set(b), (what, a, b)
        for key in b:
            same(a[key], b[key], f"{what}.{key}")
    elif isinstance(b, np.ndarray) and b.dtype == object:
        assert a.dtype == object and a.shape == b.shape, what
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{what}[{i}]")
    elif isinstance(b, np.ndarray):
        assert a.dtype == b.dtype and a.shape == b.shape, (what, a, b)
        np.testing.assert_array_equal(a, b, what)
    elif isinstance(b, (tuple, list)):
        assert len(a) == len(b), what
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{what}[{i}]")
    else:
        assert a == b, (what, a, b)


# --- the same as Gymnasium's own vectors ---------------------------------------------------------------------------------------------------


def play(ours, theirs, steps, actions, seed=5):
    """Both take the same actions. Returns how many episodes have ended, by termination and by truncation."""
    mode = theirs.metadata["autoreset_mode"]
    assert ours.metadata["autoreset_mode"] == mode and ours.num_envs == theirs.num_envs
    a, b = ours.reset(seed=seed), theirs.reset(seed=seed)
    same(a, b, "reset")
    ended = [0, 0]
    for i in range(steps):
        action = actions(b[0])
        a, b = ours.step(action), theirs.step(action)
        for infos in (a[-1], b[-1]):
            infos.pop("prob", None)  # FrozenLake's is 1 after a reset, which makes Gymnasium's array one of integers and all others' 0
        same(a, b, f"step {i}")
        ended[0] += int(b[2].sum())
        ended[1] += int(b[3].sum())
        over = b[2] | b[3]
        if mode == AutoresetMode.DISABLED and over.any():
            a, b = ours.reset(options={"reset_mask": over.copy()}), theirs.reset(options={"reset_mask": over.copy()})
            same(a, b, f"reset after {i}")
    return ended


def any_of(theirs):
    theirs.action_space.seed(3)
    return lambda _: theirs.action_space.sample()


def upright(observations):
    return (observations[:, 2] + observations[:, 3] > 0).astype(np.int64)


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
@pytest.mark.parametrize("environment", ["builtin", "cartpole"])
def test_cartpole(g, environment, mode):
    theirs = gymnasium.make_vec("CartPole-v1", 6, "sync", vector_kwargs={"autoreset_mode": mode})
    with vector(g, environment, 6, autoreset_mode=mode) as ours:
        assert ours.single_action_space == theirs.single_action_space and ours.single_observation_space.shape == theirs.single_observation_space.shape
        assert play(ours, theirs, 120, any_of(theirs))[0] > 10
    # And to the limit of 500 steps.
    theirs = gymnasium.make_vec("CartPole-v1", 3, "sync", vector_kwargs={"autoreset_mode": mode})
    if environment == "builtin":
        with vector(g, environment, 3, autoreset_mode=mode) as ours:
            assert play(ours, theirs, 620, upright)[1] > 0


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
@pytest.mark.parametrize("environment", ["frozenlake", "pendulum"])
def test_other_environments(g, environment, mode):
    theirs = gymnasium.make_vec(REAL[environment], 4, "sync", vector_kwargs={"autoreset_mode": mode})
    with vector(g, environment, 4, autoreset_mode=mode, observation_space=theirs.single_observation_space, action_space=theirs.single_action_space) as ours:
        assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
        ended = play(ours, theirs, 210 if environment == "pendulum" else 60, any_of(theirs))
    assert sum(ended) > 3


def test_frames(g):
    """84×84 bytes of Atari: each vector as its seeds have it, and the same as one environment alone has it."""
    with vector(g, "pong", 3) as envs:
        assert envs.single_observation_space == spaces.Box(0, 255, (84, 84), np.uint8) and envs.single_action_space == spaces.Discrete(6)

        def run():
            observations, infos = envs.reset(seed=[4, 4, 5])
            frames, lives = [observations], infos["lives"]
            for action in range(8):
                frames.append(envs.step(np.full(3, action % 6))[0])
            return np.array(frames), lives

        frames, lives = run()
        assert frames.shape == (9, 3, 84, 84) and frames.dtype == np.uint8 and lives.tolist() == [0, 0, 0]
        assert (frames[:, 0] == frames[:, 1]).all() and frames.std() > 10
        assert (run()[0] == frames).all()
        with envgate.Env(g.target, "pong") as env:
            alone = [env.reset(seed=5)[0], *(env.step(action % 6)[0] for action in range(8))]
        assert (np.array(alone) == frames[:, 2]).all()


# --- Gymnasium's own checks, and what its vectors promise ----------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", ["builtin", *REAL])
def test_check_env(g, environment):
    options = {"observation_space": OBSERVED[environment]} if environment in OBSERVED else {}
    with warnings.catch_warnings(record=True) as caught, envgate.make(g.target, environment, **options) as env:
        warnings.simplefilter("always")
        check_env(env)
    # It may say so of CartPole's and Pendulum's own spaces, and that without a registered name it cannot make others to render.
    expected = ("infinity", "symmetric and normalized", "alternative render modes")
    assert not [str(w.message) for w in caught if not any(words in str(w.message) for words in expected)]


@pytest.fixture
def envs(g):
    with vector(g, "builtin", 4) as e:
        yield e


def test_types(envs):
    observations, infos = envs.reset(seed=1)
    assert isinstance(infos, dict) and observations in envs.observation_space and observations.dtype == np.float32
    for _ in range(40):
        observations, rewards, terminations, truncations, infos = envs.step(envs.action_space.sample())
        assert observations in envs.observation_space and observations.shape == (4, 4)
        assert (rewards.dtype, terminations.dtype, truncations.dtype) == (np.float64, np.bool_, np.bool_)
        assert rewards.shape == terminations.shape == truncations.shape == (4,) and isinstance(infos, dict)
    assert envs.observation_space.shape == (4, 4) and envs.action_space.shape == (4,)
    assert not envs.closed and "VectorEnv" in repr(envs) and envs.unwrapped is envs and envs.render_mode is None


def test_seeds(envs):
    by_number = envs.reset(seed=7)[0]
    assert (envs.reset(seed=[7, 8, 9, 10])[0] == by_number).all() and (envs.reset()[0] != by_number).any()
    assert (by_number[0] != by_number[1]).any() and envs.np_random_seed == 7
    some = envs.reset(seed=[7, None, None, None])[0]
    assert (some[0] == by_number[0]).all() and (some[1] != by_number[1]).any()
    for bad in ([1, 2], [1] * 5):
        with pytest.raises(ValueError, match="seeds"):
            envs.reset(seed=bad)


def test_masks(envs):
    before = envs.reset(seed=1)[0]
    after = envs.reset(seed=50, options={"reset_mask": np.array([True, False, False, True])})[0]
    assert (after[1:3] == before[1:3]).all() and (after[[0, 3]] != before[[0, 3]]).any()
    assert (after[3] == envs.reset(seed=50)[0][3]).all()
    for bad in (np.zeros(4, bool), np.ones(3, bool), np.ones(4), [True] * 4):
        with pytest.raises(ValueError, match="reset_mask"):
            envs.reset(options={"reset_mask": bad})


def test_what_is_returned_stays(envs):
    """No array is used again, and each may be written."""
    seen = [envs.reset(seed=1)[0]]
    kept = [seen[0].copy()]
    for _ in range(30):
        observations, *rest = envs.step(np.ones(4, np.int64))
        seen.append(observations)
        kept.append(observations.copy())
        for array in rest[:3]:
            array[:] = 0
    assert all((a == b).all() for a, b in zip(seen, kept, strict=True))
    for array in seen:
        array[:] = 0


def test_without_copies(g):
    with vector(g, "builtin", 3, copy=False) as envs, vector(g, "builtin", 3) as copies:
        assert (envs.reset(seed=2)[0] == copies.reset(seed=2)[0]).all()
        for _ in range(40):
            assert (envs.step(np.ones(3, np.int64))[0] == copies.step(np.ones(3, np.int64))[0]).all()


def test_wrappers(g):
    """Gymnasium's wrappers of vectors take it for one of theirs."""
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(vector(g, "builtin", 4))
    envs = gymnasium.wrappers.vector.ClipReward(envs, max_reward=0.5)
    envs.reset(seed=3)
    lengths = []
    for _ in range(60):
        _, rewards, _, _, infos = envs.step(np.ones(4, np.int64))
        assert (rewards <= 0.5).all()
        if "episode" in infos:
            lengths += infos["episode"]["l"][infos["_episode"]].tolist()
    envs.close()
    assert len(lengths) > 10 and all(8 <= n <= 11 for n in lengths)  # to push to one side only is soon over


def test_a_disabled_one_wants_resets(g):
    with vector(g, "builtin", 2, autoreset_mode="Disabled") as envs:
        envs.reset(seed=1)
        while not envs.step(np.ones(2, np.int64))[2].any():
            pass
        with pytest.raises(envgate.Error, match="reset_mask"):
            envs.step(np.ones(2, np.int64))


def test_closing(g):
    envs = vector(g, "builtin", 3)
    names = list(envs.sessions)
    assert all(g.get("/v1/" + name).status_code == 200 for name in names)
    g.delete("/v1/" + names[1])  # one that is gone is no trouble
    envs.close()
    assert envs.closed and all(g.get("/v1/" + name).status_code == 404 for name in names)
    envs.close()
    for call in (envs.reset, lambda: envs.step(np.zeros(3, np.int64))):
        with pytest.raises(envgate.Error, match="closed"):
            call()


def test_all_or_none_are_created(g):
    with pytest.raises(envgate.Error, match="max_workers 1 × sessions_per_worker 16") as never:
        vector(g, "reasoning", 40)
    assert never.value.reason == "NO_CAPACITY"
    with vector(g, "reasoning", 6):
        with pytest.raises(envgate.Error) as full:
            vector(g, "reasoning", 12, start_timeout_s=0.3 * SLOW)
        assert full.value.reason == "NO_CAPACITY" and len(g.get("/v1/sessions").json()["sessions"]) == 6
    assert g.get("/v1/sessions").json().get("sessions", []) == []


# --- spaces --------------------------------------------------------------------------------------------------------------------------------


def test_spaces_of_schemas(g):
    with vector(g, "pendulum", 1) as envs:
        assert envs.single_action_space == spaces.Box(-2, 2, (1,), np.float32)
        assert envs.single_observation_space == spaces.Box(-8, 8, (3,), np.float32)
    with pytest.raises(ValueError, match="give observation_path"):
        vector(g, "echo", 1, observation_space=spaces.Box(0, 1, (3,)), action_space=ECHO["action_space"])
    with pytest.raises(ValueError, match="says too little of its observations"):
        envgate.VectorEnv(g.target, "builtin", 1, observation_path="/state")
    with pytest.raises(ValueError, match="which environment"):
        envgate.VectorEnv(g.target)
    with pytest.raises(envgate.Error) as none:
        envgate.VectorEnv(g.target, "none", 1)
    assert none.value.reason == "ENVIRONMENT_NOT_FOUND"


def test_several_paths(g):
    """A Dict's members are arrays of their own; a flag of JSON is a bit."""
    space = spaces.Dict({"state": spaces.Box(-np.inf, np.inf, (4,), np.float64), "legal_actions": spaces.MultiDiscrete([2, 2])})
    with vector(g, "builtin", 3, observation_space=space, observation_path="") as envs, vector(g, "builtin", 3) as plain:
        observations, expected = envs.reset(seed=1)[0], plain.reset(seed=1)[0]
        assert observations in envs.observation_space
        assert observations["state"].dtype == np.float64 and (observations["state"] == expected).all()
        assert observations["legal_actions"].tolist() == [[0, 1]] * 3
    pair = spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2)))
    with vector(g, "builtin", 3, observation_space=pair, observation_path="/legal_actions") as envs:
        observations = envs.reset(seed=1)[0]
        assert observations in envs.observation_space and [o.tolist() for o in observations] == [[0, 0, 0], [1, 1, 1]]


def test_text(g):
    """reasoning-gym: questions and answers are texts, and the answer comes in the infos."""
    with vector(g, "reasoning", 3, autoreset_mode=AutoresetMode.NEXT_STEP) as envs:
        questions, _ = envs.reset(seed=1)
        assert len(set(questions)) == 3 and questions in envs.observation_space
        _, rewards, terminations, truncations, infos = envs.step(("no", "idea", "42"))
        assert terminations.all() and not truncations.any() and (rewards < 1).all()
        answers = tuple(infos["answer"])
        assert envs.reset(seed=1)[0] == questions
        after, rewards, terminations, _, _ = envs.step(answers)
        assert rewards.tolist() == [1, 1, 1] and terminations.all() and after == questions
        # The next call begins new episodes.
        others, rewards, terminations, _, _ = envs.step(answers)
        assert not terminations.any() and set(others).isdisjoint(questions) and rewards.tolist() == [0, 0, 0]


def test_actions_that_do_not_fit(envs):
    envs.reset(seed=1)
    with pytest.raises(ValueError, match="shape"):
        envs.step(np.zeros(5, np.int64))
    with pytest.raises(TypeError):
        envs.step(np.full(4, 0.5))
    assert not envs.waiting and envs.step([0, 1, 0, 1])[0].shape == (4, 4)


def test_observations_that_do_not_fit(g):
    with vector(g, "builtin", 2, observation_space=spaces.Box(-1, 1, (5,), np.float32), observation_path="/state") as envs:
        with pytest.raises((envgate.Error, ValueError)):
            envs.reset(seed=1)


# --- what goes wrong -----------------------------------------------------------------------------------------------------------------------


def state_of(g, name):
    return json.loads(g.sessions.GetState(pb.GetStateRequest(session=name)).state.json)


def test_one_is_lost(g):
    with vector(g, "builtin", 4) as envs:
        envs.reset(seed=1)
        lost = envs.sessions[2]
        g.delete("/v1/" + lost)
        with pytest.raises(envgate.BatchError) as error:
            envs.step(np.ones(4, np.int64))
        assert error.value.lost == [2] and isinstance(error.value.errors[2], envgate.SessionLost) and "environment 2" in str(error.value)
        observations, rewards, *_ = error.value.results
        assert rewards.tolist() == [1, 1, 0, 1] and not observations[2].any() and observations[[0, 1, 3]].any(axis=1).all()
        again, _ = envs.replace(error.value.lost, seed=30)
        assert lost not in envs.sessions and (again[[0, 1, 3]] == observations[[0, 1, 3]]).all()
        with vector(g, "builtin", 1) as alone:
            assert (again[2] == alone.reset(seed=32)[0][0]).all()
        assert envs.step(np.ones(4, np.int64))[1].tolist() == [1, 1, 1, 1]
        assert [state_of(g, name)["step_count"] for name in envs.sessions] == [2, 2, 1, 2]


def test_a_bad_action_is_its_own(g):
    with vector(g, "builtin", 3, action_space=spaces.Discrete(5)) as envs:
        envs.reset(seed=1)
        with pytest.raises(envgate.BatchError) as error:
            envs.step(np.array([1, 4, 1]))
        assert error.value.errors[1].reason == "INVALID_ACTION" and error.value.lost == [] and list(error.value.errors) == [1]
        assert envs.step(np.ones(3, np.int64))[1].tolist() == [1, 1, 1]
        assert [state_of(g, name)["step_count"] for name in envs.sessions] == [2, 1, 2]


def test_a_timeout_loses_nothing(g):
    """One of the environments is slow: step() ends with a Timeout, and step_wait() goes on with the same step."""
    slow = spaces.Dict({**ECHO["action_space"].spaces, "fault": spaces.Text(10, min_length=0), "ms": spaces.Discrete(100000)})
    ms = 900 * SLOW
    with vector(g, "echo", 3, observation_space=ECHO["observation_space"], action_space=slow, step_timeout_s=0.3 * SLOW) as envs:
        envs.reset()
        actions = {"message": ("a", "b", "c"), "fault": ("slow",) * 3, "ms": np.array([0, ms, 0])}
        with pytest.raises(envgate.Timeout):
            envs.step(actions)
        assert envs.waiting
        with pytest.raises(envgate.Error, match="under way"):
            envs.step(actions)
        observations, rewards, *_ = envs.step_wait(10 * SLOW)
        assert observations["echoed_message"] == ("a", "b", "c") and not envs.waiting and observations in envs.observation_space
        assert [state_of(g, name)["total_steps"] for name in envs.sessions] == [1, 1, 1]


def test_side_by_side(g):
    with vector(g, "builtin", 4) as envs:
        envs.reset(seed=1)
        envs.step_async(np.ones(4, np.int64))
        assert envs.waiting
        with pytest.raises(envgate.Error, match="under way"):
            envs.step_async(np.ones(4, np.int64))
        with vector(g, "builtin", 4) as other:
            other.reset(seed=1)
            same(envs.step_wait(), other.step(np.ones(4, np.int64)))
        with pytest.raises(envgate.Error, match="no step is under way"):
            envs.step_wait()
        # A reset of all lets go of a step that nobody collects any more.
        envs.step_async(np.ones(4, np.int64))
        assert envs.reset(seed=1)[0].shape == (4, 4) and not envs.waiting


@pytest.mark.parametrize("environment", ["builtin", "echo"])
def test_replies_that_are_lost_on_the_way(g, environment):
    """The connection breaks when a step's reply is on its way, and again and again: nothing is stepped twice, nothing is left out."""
    options = ECHO if environment == "echo" else {}
    c = Cut(g.target)
    try:
        with envgate.VectorEnv(c.address, environment, 8, **options) as envs, vector(g, environment, 8, **options) as other:
            same(envs.reset(seed=1), other.reset(seed=1))
            for i in range(12):
                c.arm(200)
                actions = {"message": tuple(f"{k}-{i}" for k in range(8))} if environment == "echo" else np.full(8, i % 2)
                same(envs.step(actions), other.step(actions), f"step {i}")
            assert c.cuts == 12
            counts = [state_of(g, name) for name in envs.sessions]
            assert [s["step_count"] for s in counts] == [state_of(g, name)["step_count"] for name in other.sessions]
            if environment == "echo":
                assert [(s["total_steps"], s["repeated_steps"]) for s in counts] == [(12, 0)] * 8
    finally:
        c.close()


def test_a_gateway_that_goes_away(gateway):
    own = gateway({"environments": {"e": builtin("cartpole", sessions_per_worker=8)}})
    envs = envgate.VectorEnv(own.target, "e", 2, step_timeout_s=1.0)
    envs.reset(seed=1)
    ending = threading.Thread(target=own.stop)
    ending.start()
    began = time.monotonic()
    with pytest.raises(envgate.Error):
        while True:
            envs.step(np.zeros(2, np.int64))
    assert time.monotonic() - began < 20 * SLOW
    ending.join()
    with pytest.raises(envgate.Error):
        envs.close()
    assert envs.closed or envs._channel is not None
