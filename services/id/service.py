"""The RPCs of the id service."""

from chirp.id import v1 as idpb
from services.id import snowflake
from services.id.generator import Generator
from services.runtime.call import Call
from services.runtime.metrics import Metrics


class IdService:
    """Issues ids and takes them apart."""

    def __init__(self, generator: Generator, metrics: Metrics) -> None:
        self._generator = generator
        self._issued = metrics.counter("chirp_id_issued", "Ids issued.")

    async def generate_ids(self, request: idpb.GenerateIdsRequest, call: Call) -> idpb.GenerateIdsResponse:
        """As many ids as asked for, in one list of increasing numbers."""
        count = request.count or 1
        reply = idpb.GenerateIdsResponse(ids=await self._generator.take(count))
        self._issued.inc(count)
        return reply

    async def describe_id(self, request: idpb.DescribeIdRequest, call: Call) -> idpb.DescribeIdResponse:
        """The parts of an id, whoever issued it."""
        parts = snowflake.describe(request.id)
        reply = idpb.DescribeIdResponse(worker_id=parts.worker_id, sequence=parts.sequence)
        reply.create_time.FromMilliseconds(parts.time_ms)
        return reply

    async def healthy(self) -> bool:
        """Whether ids can be issued: without a lease, other replicas are asked."""
        return self._generator.able()
