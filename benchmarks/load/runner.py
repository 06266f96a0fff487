"""Runs one scenario in Locust, headless, and says whether all answers were right."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from typing import Any, Final

from locust import LoadTestShape, constant_throughput
from locust.env import Environment
from locust.log import setup_logging
from locust.stats import (
    print_error_report,
    print_percentile_stats,
    print_stats,
    stats_history,
)

from benchmarks.load.bill import Bill
from benchmarks.load.processes import get
from benchmarks.load.scenarios import Scenario
from benchmarks.load.users import PLAIN, Caller

MESSAGES_PATH: Final = "/messages/current-period"

Listener = Callable[..., None]


@dataclass(frozen=True)
class Watch:
    """A task during the load: it runs in a thread, and observes every answer."""

    play: Callable[[float], None]
    """Called once with the scenario's seconds when the load starts."""
    answered: Callable[[Any], None]
    """Called with the response of each request."""
    verdict: Callable[[], list[str]]
    """What went wrong, asked when the run is over."""


def first_bill(host: str, upstream: str | None) -> Bill:
    """Fetch the first answer, checked against its sums and the upstream's messages."""
    body, headers = get(f"{host}/usage", PLAIN)
    bill = Bill(body)
    bill.check_whole(body, headers.get("ETag") or "")
    bill.check_daily(get(f"{host}/usage/daily")[0])
    bill.check_reports(get(f"{host}/usage/reports")[0])
    if upstream is not None:
        bill.check_upstream(get(upstream + MESSAGES_PATH)[0])
    return bill


def run(host: str, scenario: Scenario, bill: Bill, watch: Watch) -> list[str]:
    """Run to the end; what went wrong, nothing where all is well."""
    setup_logging("WARNING")
    environment = Environment(
        user_classes=[_caller(scenario, bill)], shape_class=_shape(scenario), host=host
    )
    runner = environment.create_local_runner()
    environment.events.request.add_listener(_stopper(scenario.requests, runner))
    environment.events.request.add_listener(_teller(watch))
    runner.start_shape()
    Thread(target=stats_history, args=[runner], daemon=True).start()
    Thread(target=watch.play, args=[scenario.seconds], daemon=True).start()
    runner.shape_greenlet.join()
    runner.quit()
    print_stats(environment.stats, current=False)
    print_percentile_stats(environment.stats)
    print_error_report(environment.stats)
    total = environment.stats.total
    problems = [] if total.num_requests else ["no request was answered"]
    if total.num_failures:
        problems.append(f"{total.num_failures} of {total.num_requests} answers failed")
    return problems + watch.verdict()


def _caller(scenario: Scenario, bill: Bill) -> type[Caller]:
    rate = scenario.per_user_per_s
    pace = {"wait_time": constant_throughput(rate)} if rate else {}
    members = {"tasks": scenario.tasks, "bill": bill, "abstract": False, **pace}
    return type("ScenarioCaller", (Caller,), members)


def _shape(scenario: Scenario) -> Any:
    class Stages(LoadTestShape):
        """The scenario's stages, each reached at once."""

        def tick(self) -> tuple[int, float] | None:
            left = self.get_run_time()
            for stage in scenario.stages:
                if left < stage.seconds:
                    return stage.users, float(stage.users)
                left -= stage.seconds
            return None

    return Stages()


def _stopper(requests: int, runner: Any) -> Listener:
    """Ends the run with the last request that it may send."""

    def listen(**_told: object) -> None:
        is_enough = runner.stats.total.num_requests >= requests
        if is_enough and runner.shape_greenlet is not None:  # it ends by itself, too
            runner.shape_greenlet.kill(block=False)

    return listen


def _teller(watch: Watch) -> Listener:
    def listen(response: Any = None, **_told: object) -> None:
        if response is not None:
            watch.answered(response)

    return listen
