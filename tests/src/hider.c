/* What extensions do that keep a table's rows elsewhere: queries of "shell" are planned to read "shards", the file of
 * "shell" is empty; of "partly", which has rows of its own, only those that aggregate. And a table access method that is
 * not heap. */
#include "postgres.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "fmgr.h"
#include "nodes/parsenodes.h"
#include "optimizer/planner.h"
#include "parser/parse_relation.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"

PG_MODULE_MAGIC;

void _PG_init(void);

static planner_hook_type next_planner;

static void redirect(Query *query)
{
	ListCell *cell;
	foreach(cell, query->rtable)
	{
		RangeTblEntry *entry = lfirst_node(RangeTblEntry, cell);
		char *name = entry->rtekind == RTE_RELATION ? get_rel_name(entry->relid) : NULL;
		Oid shards;
		if (name == NULL || (strcmp(name, "shell") != 0 && !(query->hasAggs && strcmp(name, "partly") == 0)))
			continue;
		shards = get_relname_relid("shards", get_rel_namespace(entry->relid));
		if (!OidIsValid(shards))
			continue;
		LockRelationOid(shards, AccessShareLock);
#if PG_VERSION_NUM >= 160000
		/* Rights are asked for beside the entry, and must be on the same relation. */
		if (entry->perminfoindex != 0)
			getRTEPermissionInfo(query->rteperminfos, entry)->relid = shards;
#endif
		entry->relid = shards;
	}
	/* EXISTS is a query within. */
	foreach(cell, query->targetList)
	{
		Expr *expression = lfirst_node(TargetEntry, cell)->expr;
		if (IsA(expression, SubLink))
			redirect(castNode(Query, ((SubLink *) expression)->subselect));
	}
}

static PlannedStmt *hide(Query *query, const char *text, int options, ParamListInfo params)
{
	if (query->commandType == CMD_SELECT)
		redirect(query);
	return next_planner ? next_planner(query, text, options, params)
						: standard_planner(query, text, options, params);
}

void _PG_init(void)
{
	next_planner = planner_hook;
	planner_hook = hide;
}

static bool needs_no_toast(Relation relation)
{
	(void) relation;
	return false;
}

PG_FUNCTION_INFO_V1(other_am);

Datum other_am(PG_FUNCTION_ARGS)
{
	static TableAmRoutine routine;
	routine = *GetHeapamTableAmRoutine();
	/* Heap's own would be of this access method, and have an index, which heap builds of its own tables only. */
	routine.relation_needs_toast_table = needs_no_toast;
	PG_RETURN_POINTER(&routine);
}
